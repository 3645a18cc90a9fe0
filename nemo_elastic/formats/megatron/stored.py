# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A torch_dist checkpoint of NeMo's or Megatron-Bridge's: its tensors, each read when it is asked for, and all of it
opened as what a Hugging Face folder is opened as, so that everything that cuts and checks takes it.

Neither Megatron nor a process group is needed, whatever layout of ranks wrote it. Everything is read as data: a
checkpoint from elsewhere runs no code here (`metadata`, `torch_files`).

Its shape comes from its tensors, whatever pruned them (`infer`), and what no size tells from its context. A trained
elastic checkpoint is a family: it carries its members, and its context the block that names them.
"""

from __future__ import annotations

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
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import Tensor, by_name, megatron_tensors
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import PREFIX as PREFIX_BEHIND
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.adapter import apart, from_megatron, from_parts, missing, parts_of, stacked_of
from nemo_elastic.formats.hf.config import prediction_config, to_hf_config
from nemo_elastic.formats.low_precision import Weights
from nemo_elastic.formats.source import Origin, Shapes, Source, check_tensors
from nemo_elastic.formats.tensor import Tensor as Unread

from .context_files import Context, read_context, token_ids
from .infer import infer
from .metadata import (
    PREFIX,
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

__all__ = [
    "ELASTIC", "Stored", "checkpoint_members", "differing", "dtype_of", "elastic_family", "first_line", "open_folder",
    "plain_tensors", "read_checkpoint", "read_elastic", "read_shapes", "read_tensor",
]  # fmt: skip

#: what stands before the names of router and members
ELASTIC = "elastic."
#: tensors that stay in memory: one for each thread that reads for a writer, and the next
RECENT = 4
#: name of a Megatron tensor -> the tensor
Read = Callable[[str], torch.Tensor]


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
        model = {
            name.removeprefix(self.prefix): entry
            for name, entry in self.metadata.tensors.items()
            if of_model(name, self.prefix)
        }
        self.sizes = {name: entry.size for name, entry in model.items()}
        self.dtypes = {name: entry.dtype for name, entry in model.items()}

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
        entries = ((name, entry) for name, entry in self.metadata.tensors.items() if name.startswith(prefix))
        return {name.removeprefix(prefix): self._read(name, entry) for name, entry in entries}

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
    """What went wrong, at the bottom of what torch and others wrap around it."""
    inner: BaseException | None = exc
    while inner is not None:
        exc, inner = inner, inner.__cause__
        if isinstance(exc, CheckpointException):
            inner = next(iter(exc.failures.values()))[0]
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def plain_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Every model tensor of a distributed checkpoint, whole, without a process group (optimizer state is left out)."""
    stored = Stored(path)
    return {PREFIX + name: value for name, value in zip(stored.sizes, stored.read(*stored.sizes), strict=True)}


def read_checkpoint(path: str | Path, parent: Parent) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Read a NeMo checkpoint of `parent`'s shape on any machine, whatever its tensor-parallel layout was.

    Returns:
        Weights with HF names, and what lies under `elastic.` (router, found members).
    """
    plain = {name.removeprefix(PREFIX): value for name, value in plain_tensors(path).items()}
    elastic = {name.removeprefix(ELASTIC): value for name, value in plain.items() if name.startswith(ELASTIC)}
    return from_megatron(parent, parent.full, from_parts(parent, parent.full, plain)), elastic


def read_elastic(stored: Stored) -> dict[str, torch.Tensor]:
    """What a checkpoint holds under `elastic.`: router, found members."""
    names = [name for name in stored.sizes if name.startswith(ELASTIC)]
    return {n.removeprefix(ELASTIC): value for n, value in zip(names, stored.read(*names), strict=True)}


def read_tensor(stored: Stored, name: str) -> torch.Tensor:
    """Read a Megatron tensor whole; one that is stored in parts is put together, of one among many no other is read.

    Raises:
        ElasticError: it is missing, or its file is broken.
    """
    held = _stack(stored, name)
    if held is not None:
        return stored.read_one(*held)
    parts = (name,) if name in stored.sizes else parts_of(name) or (name,)
    for part in parts:
        if part not in stored.sizes:
            raise missing(part)
    value, *others = stored.read(*parts)
    return torch.cat([value, *others]) if others else value


def dtype_of(stored: Stored, name: str) -> torch.dtype:
    """Dtype of a Megatron tensor that is there."""
    held = _stack(stored, name)
    return stored.dtypes[held[0] if held is not None else name if name in stored.dtypes else parts_of(name)[0]]


def _stack(stored: Stored, name: str) -> tuple[str, int] | None:
    """Where the checkpoint holds a tensor as one of many."""
    held = None if name in stored.sizes else stacked_of(name)
    return held if held is not None and held[1] < (*stored.sizes.get(held[0], ()), 0)[0] else None


# ------------------------------------------------------------------ the family that it holds


def checkpoint_members(
    parent: Parent, elastic: Mapping[str, torch.Tensor], config: ElasticConfig, where: str
) -> dict[str, Subnet]:
    """Members that an elastic checkpoint carries, by budget name.

    Raises:
        ElasticError: the checkpoint is of a stock model, of other budgets or another parent, or its shapes are not
            found yet.
    """
    codes = elastic.get("codes")
    if codes is None or not codes.any():
        raise bad("checkpoint", where, "an elastic checkpoint with members")
    if len(codes) != len(config.budgets):
        raise bad("elastic.budgets", len(config.budgets), f"as many as the checkpoint's {len(codes)} members")
    return {b.name: decode(parent, row) for b, row in zip(config.budgets, codes.tolist(), strict=True)}


def elastic_family(
    parent: Parent,
    elastic: Mapping[str, torch.Tensor],
    block: Mapping[str, Any] | ElasticConfig,
    where: str,
    *,
    ranking_digest: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Family:
    """The family that an elastic checkpoint holds.

    Args:
        parent: shape of its weights.
        elastic: what it holds under `elastic.` (`read_elastic`).
        block: the elastic block of the run.
        where: the checkpoint, for errors.
        ranking_digest, provenance: recorded in elastic.json.

    Raises:
        ElasticError: it has no members, or those of another block or parent.
    """
    config = block if isinstance(block, ElasticConfig) else ElasticConfig.from_dict(dict(block))
    shape = config.parent_shape(parent)
    members = checkpoint_members(shape, elastic, config, where)
    order = next((elastic[name].tolist() for name in ("router.drop_order", "drop_order") if name in elastic), None)
    return Family.of(
        shape,
        members,
        axes=config.resolve_axes(shape),
        budgets=config.budgets,
        ranking_digest=ranking_digest,
        provenance=provenance,
        drop_order=order,
    )


# ------------------------------------------------------------------ opened as a source


def read_shapes(folder: str | Path) -> Shapes:
    """Read everything that a NeMo checkpoint says of itself, without its weights.

    Raises:
        ElasticError: not a whole checkpoint of a Nemotron-H; the message names the file or the tensor.
    """
    return _read(Path(folder))[0]


def open_folder(folder: str | Path) -> Source:
    """Open a NeMo checkpoint: a stock one of any shape, one that was pruned, or an elastic one, which is a family.

    Weights are read a tensor at a time, when rows are asked for; the last few stay in memory.

    Raises:
        ElasticError: see `read_shapes`.
    """
    shapes, stored, names = _read(Path(folder))
    tensors: dict[str, Unread] = {}
    read = _reader(stored)
    for ours, together in megatron_tensors(shapes.parent, shapes.held).items():
        tensors |= _unread(stored, shapes.parent, together, names[ours], read)
    check_tensors(shapes.parent, shapes.held, Weights(tensors), str(folder))
    predicts = _predicts(stored, read_context(Path(folder)).settings)
    behind = {} if predicts is None else _behind(stored, shapes, predicts, read)
    return Source(**vars(shapes), tensors=tensors, prediction=behind, predicts=predicts)


def _predicts(stored: Stored, settings: Mapping[str, Any]) -> Prediction | None:
    """Which layers there are behind the model; None where the checkpoint has none."""
    there = any(name.startswith(PREFIX_BEHIND) for name in stored.sizes)
    with inside("context: model.config"):
        return prediction_of(settings.get) if there else None


def _behind(stored: Stored, shapes: Shapes, predicts: Prediction, read: Read) -> dict[str, Unread]:
    """The tensors of layers that predict more than one token."""
    out: dict[str, Unread] = {}
    parent = predicts.behind(shapes.parent)
    for name, together in predicts.megatron_tensors(shapes.parent, shapes.held).items():
        if _stack(stored, name) is None and not {name, *parts_of(name)} & stored.sizes.keys():
            raise missing(name)
        out |= _unread(stored, parent, together, name, read)
    return out


def _read(folder: Path) -> tuple[Shapes, Stored, Mapping[str, str]]:
    stored = Stored(folder)
    context = read_context(folder)
    model = {name: size for name, size in stored.sizes.items() if not name.startswith(ELASTIC)}
    parent, held, names = infer(model, context.settings, str(folder))
    family, origin = None, Origin()
    if any(name.startswith(ELASTIC) for name in stored.sizes):
        family = _family(folder, stored, context, parent)
        parent, held = family.parent, family.parent.full
        origin = Origin.of(family)
    dtype = _name_of(stored.dtypes[names[by_name("embedding").megatron]])
    config = to_hf_config(parent, held, dtype=dtype, base=token_ids(context.tokenizer))
    if (predicts := _predicts(stored, context.settings)) is not None:
        config |= prediction_config(predicts, context.settings.get("mtp_num_layers"))
    shapes = Shapes(folder, parent, held, config, family, origin, files_from=context.tokenizer)
    return shapes, stored, names


def _family(folder: Path, stored: Stored, context: Context, parent: Parent) -> Family:
    if context.elastic is None:
        raise ElasticError(f"{folder}: has members of a family, but {context.file} has no elastic block")
    provenance = {"made_by": f"nemo-elastic {__version__}", "checkpoint": folder.resolve().name}
    elastic = read_elastic(stored)
    with inside(context.file):
        return elastic_family(parent, elastic, context.elastic, str(folder), provenance=provenance)


def _name_of(dtype: torch.dtype) -> str:
    return Unread.of(torch.empty(0, dtype=dtype)).dtype


def _reader(stored: Stored) -> Read:
    """Reads a Megatron tensor whole; the last few stay, since their rows are asked for some at a time."""

    @lru_cache(maxsize=RECENT)
    def read(name: str) -> torch.Tensor:
        return read_tensor(stored, name)

    return read


def _unread(stored: Stored, parent: Parent, together: Sequence[Tensor], name: str, read: Read) -> dict[str, Unread]:
    """The tensors that a Megatron tensor holds, by their names in a Hugging Face folder."""
    dtype = _name_of(dtype_of(stored, name))

    def rows(which: int) -> Callable[[int, int], np.ndarray]:
        return lambda first, last: Unread.of(apart(parent, together, read(name))[which][first:last]).words

    return {t.hf: replace(Unread.made(dtype, t.shape, rows(i)), root=together) for i, t in enumerate(together)}
