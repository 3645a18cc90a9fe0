# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors of a torch_dist checkpoint, by name and shape, each read when it is asked for.

Neither Megatron nor a process group is needed, whatever layout of ranks wrote it. Everything is read as data: a
checkpoint from elsewhere runs no code here (`metadata`, `pickled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.bounded import read_text
from nemo_elastic.io.inside import check_inside
from nemo_elastic.io.read import read_json

from .items import read_piece
from .metadata import PREFIX, StoredTensor, model_prefix, of_model, read_metadata
from .pickled import PickleError

__all__ = ["PREFIX", "RUN_CONFIG", "Stored", "differing", "first_line", "last_iteration", "weights_folder"]

#: of Megatron-Bridge: a run's last checkpoint, what their names begin with, and what each says of its run
TRACKER, ITERATION, RUN_CONFIG = "latest_checkpointed_iteration.txt", "iter_", "run_config.yaml"
#: the name of one that has weights alone, and no step of a training
RELEASE = "release"


def weights_folder(path: str | Path) -> Path:
    """The folder of sharded weights inside a checkpoint: NeMo's, Megatron-Bridge's, or the last of a run of Bridge's.

    Raises:
        ElasticError: there is no distributed checkpoint at `path`.
    """
    last = last_iteration(path)
    for candidate in (Path(path) / "weights", Path(path), *((last,) if last else ())):
        if (candidate / "metadata.json").is_file():
            return candidate if candidate.name != "weights" else check_inside(candidate)
    raise bad("checkpoint", str(path), "a NeMo checkpoint folder (weights/metadata.json)")


def last_iteration(path: str | Path | None) -> Path | None:
    """The last checkpoint in a folder of Megatron-Bridge's or Megatron-LM's, or the one that it is; None without one.

    Both write its number down after all ranks have written all of it: one that a kill cut short is not found.
    """
    if path is None:
        return None
    folder = Path(path)
    # the best of a run has a second name, a link
    one = folder.name.startswith(ITERATION) or folder.name == RELEASE or folder.is_symlink()
    if one and (folder / RUN_CONFIG).is_file():
        return folder
    try:
        told = read_text(folder / TRACKER, most=1024)[:20].strip()
    except (OSError, UnicodeDecodeError):
        return None
    number = told.isdecimal() and told.isascii()
    found = folder / (f"{ITERATION}{int(told):07d}" if number else told) if number or told == RELEASE else None
    return found if found is not None and found.is_dir() else None


def check_format(folder: Path) -> None:
    """Raise where a folder of weights is in another format than the one that is looked at here."""
    told = read_json(folder / "metadata.json")
    told = told if isinstance(told, dict) else {}
    backend, common = told.get("sharded_backend"), told.get("common_backend", "torch")
    if backend != "torch_dist":
        raise bad(f"{folder / 'metadata.json'}: sharded_backend", backend, "only torch_dist is read")
    if common != "torch":
        raise bad(f"{folder / 'metadata.json'}: common_backend", common, "only torch is read")


class Stored:
    """The model's tensors of a checkpoint; the optimizer's and TransformerEngine's extra states are left out.

    Args:
        path: a checkpoint of NeMo's or Megatron-Bridge's, or a folder of weights.

    Attributes:
        folder: the folder of weights.
        metadata: all that it holds.
        prefix: what stands before the names of the model's tensors.
        sizes: name (without the prefix) -> shape.
        dtypes: name -> dtype.

    Raises:
        ElasticError: no such checkpoint, another format, or metadata that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = weights_folder(path)
        check_format(self.folder)
        self.metadata = read_metadata(self.folder)
        self.prefix = model_prefix(self.metadata.tensors)
        found = {
            name.removeprefix(self.prefix): entry
            for name, entry in self.metadata.tensors.items()
            if of_model(name, self.prefix)
        }
        self.sizes = {name: entry.size for name, entry in found.items()}
        self.dtypes = {name: entry.dtype for name, entry in found.items()}

    def read(self, *names: str) -> list[torch.Tensor]:
        """Read tensors, whole, into the memory of the CPU.

        Raises:
            ElasticError: a file is missing or broken.
        """
        return [self._read(name, self.metadata.tensors[self.prefix + name]) for name in names]

    def held(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Read all tensors whose names in the checkpoint start so, without that; the optimizer's are among them.

        Raises:
            ElasticError: as `read`.
        """
        found = ((name, entry) for name, entry in self.metadata.tensors.items() if name.startswith(prefix))
        return {name.removeprefix(prefix): self._read(name, entry) for name, entry in found}

    def read_one(self, name: str, number: int) -> torch.Tensor:
        """Read one entry of a tensor's first dimension, and of its pieces only those that have something of it.

        Raises:
            ElasticError: as `read`.
        """
        entry = self.metadata.tensors[self.prefix + name]
        pieces = tuple(p for p in entry.pieces if p.offsets[0] <= number < p.offsets[0] + p.sizes[0])
        first = min(p.offsets[0] for p in pieces)
        size = (max(p.offsets[0] + p.sizes[0] for p in pieces) - first, *entry.size[1:])
        moved = tuple(replace(p, offsets=(p.offsets[0] - first, *p.offsets[1:])) for p in pieces)
        return self._read(name, StoredTensor(entry.dtype, size, moved))[number - first]

    def _read(self, name: str, entry: StoredTensor) -> torch.Tensor:
        try:
            # before there is room for it: what is said to be in a file has to fit into it
            files = [self.metadata.file(piece.place.file) for piece in entry.pieces]
            whole = torch.empty(entry.size, dtype=entry.dtype)
            for piece, file in zip(entry.pieces, files, strict=True):
                if piece.sizes == entry.size:
                    read_piece(file, piece, whole)
                    continue
                part = torch.empty(piece.sizes, dtype=entry.dtype)
                read_piece(file, piece, part)
                box = zip(piece.offsets, piece.sizes, strict=True)
                whole[tuple(slice(first, first + size) for first, size in box)] = part
        except (PickleError, ElasticError, OSError, RuntimeError) as exc:
            raise ElasticError(f"{name} cannot be read ({first_line(exc)})", self.folder) from None
        return whole


def differing(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one has, or whose dtype, shape or bytes differ."""
    return sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or not _same(found[name], wanted[name])
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))


def first_line(exc: BaseException) -> str:
    """What went wrong, at the bottom of what torch and others wrap around it."""
    inner: BaseException | None = exc
    while inner is not None:
        exc, inner = inner, inner.__cause__
        if isinstance(exc, CheckpointException):
            inner = next(iter(exc.failures.values()))[0]
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
