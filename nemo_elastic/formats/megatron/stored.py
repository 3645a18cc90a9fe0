# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A torch_dist checkpoint of NeMo or Megatron-Bridge: its tensors, each read on access, and the whole opened as a
`Checkpoint`, as a Hugging Face folder is, for cuts and checks.

Neither Megatron nor a process group is needed, whatever layout of ranks wrote it. Everything is read as data: a
checkpoint from elsewhere runs no code here (`metadata`, `torch_files`).

Its shape comes from its tensors, whatever pruned them (`infer`), and what no size tells from its context. A trained
elastic checkpoint is a family: it carries its members, and its context the block that names them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException

from nemo_elastic import __version__
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.codes import decode
from nemo_elastic.core.family import OWN_WIDTH, PARENT_WIDTH, Parent
from nemo_elastic.core.layout import Tensor, by_megatron, by_name
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import Prediction, all_tensors, is_mtp
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.adapter import apart, parts_of, stacked_of
from nemo_elastic.formats.checkpoint import Checkpoint, Origin, Shapes, check_tensors, unreplaced
from nemo_elastic.formats.hf.config import prediction_config, to_hf_config
from nemo_elastic.formats.tensor import Tensor as Unread

from .context_files import Context, read_context, token_ids
from .infer import infer
from .metadata import (
    PickleError,
    StoredTensor,
    check_format,
    model_prefix,
    of_model,
    read_metadata,
    weights_folder,
)
from .shape import prediction_of
from .torch_files import read_piece

__all__ = ["ELASTIC", "Stored", "differing", "elastic_family", "first_line", "open_folder", "read_shapes"]

#: prefix of router and members
ELASTIC = "elastic."


class _Recent(threading.local):
    """The last read tensor of each thread, as its rows are requested in pieces."""

    def __init__(self, read: Callable[[str], list[torch.Tensor]]) -> None:
        self.read = lru_cache(maxsize=1)(read)


class Stored:
    """The model's tensors of a checkpoint; the optimizer's and TransformerEngine's extra states are left out.

    Args:
        path: a checkpoint of NeMo's or Megatron-Bridge's, or a folder of weights.

    Attributes:
        folder: the folder of weights.
        metadata: its entries.
        prefix: of the names of the model's tensors.
        sizes: name (without the prefix) -> shape.

    Raises:
        ElasticError: no checkpoint, another format, or unreadable metadata.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = weights_folder(path)
        check_format(self.folder)
        self.metadata = read_metadata(self.folder)
        self.prefix = model_prefix(self.metadata.tensors)
        self._tensors = {
            name.removeprefix(self.prefix): entry
            for name, entry in self.metadata.tensors.items()
            if of_model(name, self.prefix)
        }
        self.sizes = {name: entry.size for name, entry in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor whole, by its name here or in the model, into the memory of the CPU.

        One that is stored in parts is put together; of one that is stored among many no other is read.
        """
        if (stack := self._stack(name)) is not None:
            return self.read_one(*stack)
        values = [self._read_pieces(part, self._tensors[part]) for part in self._parts(name)]
        return torch.cat(values) if len(values) > 1 else values[0]

    def read_all(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Read all tensors whose names start with `prefix`, and remove it from the names."""
        entries = ((name, entry) for name, entry in self.metadata.tensors.items() if name.startswith(prefix))
        return {name.removeprefix(prefix): self._read_pieces(name, entry) for name, entry in entries}

    def elastic(self) -> dict[str, torch.Tensor]:
        """Read the tensors under `elastic.`: router, found members."""
        return {name.removeprefix(ELASTIC): self.read(name) for name in self.sizes if name.startswith(ELASTIC)}

    def read_one(self, name: str, number: int) -> torch.Tensor:
        """Read one entry of a tensor's first dimension, from only the pieces that contain it."""
        entry = self._tensors[name]
        pieces = tuple(p for p in entry.pieces if p.offsets[0] <= number < p.offsets[0] + p.sizes[0])
        first = min(p.offsets[0] for p in pieces)
        size = (max(p.offsets[0] + p.sizes[0] for p in pieces) - first, *entry.size[1:])
        moved = tuple(replace(p, offsets=(p.offsets[0] - first, *p.offsets[1:])) for p in pieces)
        return self._read_pieces(name, StoredTensor(entry.dtype, size, moved))[number - first]

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor that `read` reads."""
        stack = self._stack(name)
        return self._tensors[self._parts(name)[0] if stack is None else stack[0]].dtype

    def _stack(self, name: str) -> tuple[str, int] | None:
        """Name of the stacked tensor that contains this one, and its number there; None if it is stored separately."""
        stack = None if name in self.sizes else stacked_of(name)
        return stack if stack is not None and stack[1] < (*self.sizes.get(stack[0], ()), 0)[0] else None

    def _parts(self, name: str) -> tuple[str, ...]:
        """Names in the checkpoint of the parts that are concatenated to this tensor."""
        parts = (name,) if name in self.sizes else parts_of(name) or (name,)
        for part in parts:
            if part not in self.sizes:
                raise ElasticError(f"checkpoint: tensor {part} is missing")
        return parts

    def _read_pieces(self, name: str, entry: StoredTensor) -> torch.Tensor:
        try:
            # before there is room for it: the files are as long as is said
            files = [self.metadata.file(piece.place.file) for piece in entry.pieces]
            if len(files) == 1 and entry.pieces[0].sizes == entry.size:
                return read_piece(files[0], entry.pieces[0], entry.dtype)
            whole = torch.empty(entry.size, dtype=entry.dtype)
            for piece, file in zip(entry.pieces, files, strict=True):
                box = zip(piece.offsets, piece.sizes, strict=True)
                whole[tuple(slice(first, first + size) for first, size in box)] = read_piece(file, piece, entry.dtype)
        except (PickleError, ElasticError, OSError, RuntimeError) as exc:
            raise ElasticError(f"{name} cannot be read ({first_line(exc)})", self.folder) from None
        return whole


def differing(ours: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one has, or whose dtype, shape or bytes differ."""
    return sorted(
        name
        for name in ours.keys() | wanted.keys()
        if name not in ours or name not in wanted or not _same(ours[name], wanted[name])
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))


def first_line(exc: BaseException) -> str:
    """The original error, inside those that torch and others wrap around it."""
    inner: BaseException | None = exc
    while inner is not None:
        exc, inner = inner, inner.__cause__
        if isinstance(exc, CheckpointException):
            inner = next(iter(exc.failures.values()))[0]
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def elastic_family(
    parent: Parent,
    elastic: Mapping[str, torch.Tensor],
    block: Mapping[str, Any],
    where: str,
    provenance: Mapping[str, Any] | None = None,
) -> Family:
    """The family that an elastic checkpoint holds.

    Args:
        parent: shape of its weights.
        elastic: tensors under `elastic.`.
        block: the elastic block of the run.
        where: the checkpoint, for errors.
        provenance: recorded in elastic.json.
    """
    config = ElasticConfig.stored(block)
    norm = PARENT_WIDTH if bool(elastic.get("parent_norm", False)) else OWN_WIDTH  # runs of before have none
    shape, codes = replace(config.parent_shape(parent), norm=norm), elastic.get("codes")
    if codes is None or not codes.any():
        raise bad("checkpoint", where, "an elastic checkpoint with members")
    if codes.ndim != 2 or codes.dtype != torch.int64:
        given = f"{codes.dtype} {list(codes.shape)}"
        raise bad("checkpoint.elastic.codes", given, "a row of integers for each member")
    if len(codes) != len(config.budgets):
        raise bad("elastic.budgets", len(config.budgets), f"as many as the checkpoint's {len(codes)} members")
    order = elastic.get("router.drop_order", elastic.get("drop_order"))
    digest = bytes(elastic["ranking"].tolist()) if "ranking" in elastic else b""  # earlier versions saved no digest
    return Family.of(
        shape,
        {b.name: decode(shape, row) for b, row in zip(config.budgets, codes.tolist(), strict=True)},
        axes=config.resolve_axes(shape),
        budgets=config.budgets,
        ranking_digest=digest.hex() if any(digest) else None,
        provenance=provenance,
        drop_order=None if order is None else order.reshape(-1).tolist(),
    )


# ------------------------------------------------------------------ opened


def read_shapes(folder: str | Path) -> Shapes:
    """Read a NeMo checkpoint's metadata without its weights."""
    return _read_checkpoint(Path(folder))[0]


def open_folder(folder: str | Path) -> Checkpoint:
    """Open a NeMo checkpoint: a stock one of any shape, one that was pruned, or an elastic one, which is a family.

    Weights are read a tensor at a time, when rows are asked for; each thread keeps the last in memory.
    """
    shapes, stored, names, prediction = _read_checkpoint(Path(folder))
    whole = all_tensors(shapes.parent, shapes.subnet, prediction)
    tensors = _unread(stored, shapes.parent, by_megatron(whole), names)
    opened = Checkpoint(**vars(shapes), tensors=tensors, prediction=prediction)
    check_tensors(opened)
    return opened


def _prediction(stored: Stored, settings: Mapping[str, Any]) -> Prediction | None:
    """Which layers predict further tokens; None where the checkpoint has none."""
    there = any(map(is_mtp, stored.sizes))
    with inside("context: model.config"):
        return prediction_of(settings.get) if there else None


def _read_checkpoint(folder: Path) -> tuple[Shapes, Stored, Mapping[str, str], Prediction | None]:
    stored = Stored(folder)
    context = read_context(folder)
    model = {name: size for name, size in stored.sizes.items() if not name.startswith(ELASTIC)}
    parent, subnet, names = infer(model, context.settings, str(folder))
    family, origin = None, Origin()
    if any(name.startswith(ELASTIC) for name in stored.sizes):
        family = _family(folder, stored, context, parent)
        parent, subnet = family.parent, family.parent.full
        origin = Origin.of(family)
    dtype = _name_of(stored.dtype(names[by_name("embedding").megatron]))
    config = to_hf_config(parent, subnet, dtype=dtype, base=token_ids(context.tokenizer))
    if (prediction := _prediction(stored, context.settings)) is not None:
        config |= prediction_config(prediction, context.settings.get("mtp_num_layers"))
    shapes = Shapes(folder, parent, subnet, config, family, origin, companions=context.tokenizer or folder)
    return shapes, stored, names, prediction


def _family(folder: Path, stored: Stored, context: Context, parent: Parent) -> Family:
    if context.elastic is None:
        raise ElasticError(f"{folder}: has members of a family, but {context.file} has no elastic block")
    provenance = {"made_by": f"nemo-elastic {__version__}", "checkpoint": folder.resolve().name}
    elastic = stored.elastic()
    with inside(context.file):
        return elastic_family(parent, elastic, context.elastic, str(folder), provenance)


def _name_of(dtype: torch.dtype) -> str:
    return Unread.of(torch.empty(0, dtype=dtype)).dtype


def _unread(
    stored: Stored, parent: Parent, by_megatron: Mapping[str, Sequence[Tensor]], names: Mapping[str, str]
) -> dict[str, Unread]:
    """Unread tensors by their names in a Hugging Face folder.

    Args:
        stored: the checkpoint.
        parent: shape of the parent.
        by_megatron: our Megatron name -> tensors that it concatenates, see `layout.megatron_tensors`.
        names: our Megatron name -> the checkpoint's, where they differ.
    """
    opened = os.stat(stored.folder)

    def read(ours: str) -> list[torch.Tensor]:
        with unreplaced(stored.folder, opened):
            return apart(parent, by_megatron[ours], stored.read(names.get(ours, ours)))

    recent = _Recent(read)

    def rows(ours: str, which: int) -> Callable[[int, int], np.ndarray]:
        return lambda first, last: Unread.of(recent.read(ours)[which][first:last]).words

    out: dict[str, Unread] = {}
    for ours, together in by_megatron.items():
        dtype = _name_of(stored.dtype(names.get(ours, ours)))
        for i, t in enumerate(together):
            out[t.hf] = replace(Unread.made(dtype, t.shape, rows(ours, i)), root=together)
    return out
