# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A folder with its weights in low precision, written tensor by tensor: one weight's rows are in memory at a time.

Codes are under one scale for the whole weight, the family's: so a member's codes are those of the family, cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from nemo_elastic import __version__
from nemo_elastic.core import layout
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.precision import default_rows
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import SHARD_BYTES, Progress, write_checkpoints
from nemo_elastic.formats.low_precision import codes_and_scales
from nemo_elastic.formats.schemes import MODELOPT, Quantization, Scheme
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.outputs import atomic_dir, check_apart
from nemo_elastic.nn.low_precision import fp8_codes, nvfp4_codes, scale_of
from nemo_elastic.slicing.cutting import cut, kept_parts
from nemo_elastic.slicing.family_folder import FAMILY, QUANTIZED, write_weights
from nemo_elastic.slicing.lineage import lineage_of, provenance_in
from nemo_elastic.slicing.slicer import MEMBER, describe_member

from .activations import Ranges

__all__ = ["FAMILY_LOW", "MEMBER_LOW", "quantize", "quantize_folder", "quantized_weights", "torn_members"]


def _says(path: Path) -> bool:
    """Whether `quantize` wrote a folder, according to its manifest's provenance."""
    return QUANTIZED in provenance_in(path)


#: what `quantize` replaces: weights of full precision are not in it
FAMILY_LOW = replace(FAMILY, name="a family in low precision", says=_says)
MEMBER_LOW = replace(MEMBER, name="a model in low precision", says=_says)


@dataclass(frozen=True)
class Weight:
    """A weight that is going to be written in low precision.

    Attributes:
        name: of the weight.
        tensor: it, as it is stored now.
        scheme: how it is stored then.
        activations: largest input of its product; None where activations get no scale.
    """

    name: str
    tensor: Tensor
    scheme: Scheme
    activations: float | None

    @cached_property
    def scale(self) -> torch.Tensor:
        """fp32, of all of its numbers."""
        values = (Tensor.of_words(self.tensor.dtype, piece).numpy() for piece in self.tensor.pieces())
        largest = torch.tensor(float(np.max([np.abs(rows).max() for rows in values])))  # Python's max loses NaN
        if not bool(largest.isfinite()):
            raise ElasticError("has infinities or NaN; nemo-elastic verify finds damage", self.name)
        return scale_of(largest, self.scheme.precision)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors in low precision, by their names in a file."""
        scheme = self.scheme
        stored = Quantization(scheme, self.activations is not None)
        if scheme.block:
            made = codes_and_scales(scheme, self.tensor, self._codes_and_scales)
        else:
            made = {scheme.codes[0]: Tensor.made(scheme.codes[1], self.tensor.shape, self._codes, self.tensor)}
        made[scheme.over or scheme.scale[0]] = self._one(lambda: self.scale)
        if self.activations is not None:
            most = torch.tensor(self.activations)
            made[scheme.activations] = self._one(lambda: scale_of(most, scheme.precision))
        return {full: made[part] for part, full in stored.parts(self.name).items()}

    def _one(self, value: Callable[[], torch.Tensor]) -> Tensor:
        """A scale for all."""
        scheme = self.scheme

        def rows(first: int, last: int) -> np.ndarray:
            scale = 1 / value() if scheme.inverse else value()
            return Tensor.of((scale.bfloat16() if scheme.dtype == "BF16" else scale).reshape(1)).words

        return Tensor.made(scheme.dtype, scheme.one, rows, self.tensor)

    def _values(self, first: int, last: int) -> torch.Tensor:
        return torch.from_numpy(Tensor.of_words(self.tensor.dtype, self.tensor.rows(first, last)).numpy())

    def _codes(self, first: int, last: int) -> np.ndarray:
        return Tensor.of(fp8_codes(self._values(first, last), self.scale)).words

    def _codes_and_scales(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        codes, scales = nvfp4_codes(self._values(first, last), self.scale)
        return Tensor.of(codes).words, Tensor.of(scales).words


def quantized_weights(source: Checkpoint, scheme: Scheme) -> dict[str, tuple[str, int]]:
    """Weights that get low precision: name -> row and layer.

    Args:
        source: a family, a member or a plain model.
        scheme: how they are stored.
    """
    if source.precision is not None:
        raise ElasticError(f"{source.folder}: its weights are in {source.precision} already")
    rows = default_rows(source.parent)
    out = {}
    for t in layout.tensors(source.parent, source.subnet):
        if t.index is None or (t.row.name, t.index) not in rows:
            continue
        if not scheme.block or t.shape[1] % scheme.block == 0:
            out[t.hf] = (t.row.name, t.index)
    if not out:
        raise ElasticError(f"{source.folder}: no weight is left to be quantised")
    for name, member in (source.members | source.extras).items() if scheme.block else ():
        for weight, (_, columns) in _cut(source, member, out).items():
            if columns.kept_size % scheme.block:
                row, count = out[weight][0], columns.kept_size
                what = f"{name} keeps {count} columns of {row}, no blocks of {scheme.block}"
                raise ElasticError(f"{source.folder}: {what}: use --to fp8")
    return out


def _cut(source: Checkpoint, member: Subnet, weights: Collection[str]) -> dict[str, tuple[Selection, ...]]:
    """Name of a weight -> the selections (rows, columns) that a member keeps."""
    return {name: kept for name, kept in kept_parts(source, member).values() if name in weights}


def torn_members(source: Checkpoint, scheme: Scheme, weights: Collection[str]) -> dict[str, list[str]]:
    """Members whose cut would split blocks of scales -> rows of those weights."""
    if not scheme.block:
        return {}
    out: dict[str, list[str]] = {}
    rows = {t.hf: t.row.name for t in layout.tensors(source.parent, source.subnet)}
    for name, member in source.members.items():
        selections = _cut(source, member, weights).items()
        torn = {rows[weight] for weight, kept in selections if kept[1].in_blocks(scheme.block) is None}
        if torn:
            out[name] = sorted(torn)
    return out


def quantize(source: Checkpoint, scheme: Scheme, ranges: Ranges | None = None) -> Checkpoint:
    """A checkpoint whose weights of `quantized_weights` have low precision; see `quantize_folder`."""
    stored, whole = Quantization(scheme, ranges is not None), cut(source, source.subnet)
    tensors, storage = {}, {}
    rows = quantized_weights(source, scheme)
    for name, tensor in whole.tensors.items():
        if name in rows:
            storage[name] = stored
            tensors |= Weight(name, tensor, scheme, _range(ranges, rows[name])).tensors()
        else:
            tensors[name] = tensor
    return replace(whole, tensors=tensors, storage=storage, family=source.family)


def quantize_folder(
    source: str | Path | Checkpoint,
    out: str | Path,
    scheme: Scheme,
    *,
    ranges: Ranges | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> dict[str, tuple[str, int]]:
    """Write a family, a member or a plain model with its weights in low precision.

    Args:
        source: a Hugging Face folder, or one that `open_source` opened.
        out: the folder to write, whole or not at all.
        scheme: how weights are stored.
        ranges: largest inputs of products (`largest_inputs`), for scales of activations; None: only weights.
        force: replace an existing `out`.
        shard_bytes: largest file of weights.
        progress: called with (bytes written, bytes in all).

    Returns:
        Weights that got low precision, see `quantized_weights`.
    """
    if ranges is None and not scheme.block and scheme.layout == MODELOPT:
        raise bad("ranges", None, f"largest inputs: {scheme.precision} in the layout {MODELOPT} has scales of inputs")
    opened = source if isinstance(source, Checkpoint) else open_source(source)
    check_apart(out, opened.folder)
    rows, model = quantized_weights(opened, scheme), quantize(opened, scheme, ranges)
    lineage = lineage_of(opened.companions, opened.config)
    made = {QUANTIZED: {"to": scheme.precision, "layout": scheme.layout, "by": f"nemo-elastic {__version__}"}}
    if opened.family is not None:
        family = replace(opened.family, provenance=dict(opened.family.provenance) | made)
        write_weights(Path(out), model, family, lineage, force, shard_bytes, progress, FAMILY_LOW)
        return rows
    origin = replace(opened.origin, provenance=dict(opened.origin.provenance) | made)
    with atomic_dir(out, force, kind=MEMBER_LOW) as folder:
        describe_member(folder, replace(model, origin=origin), lineage)
        write_checkpoints({folder: model}, shard_bytes=shard_bytes, progress=progress)
    return rows


def _range(ranges: Ranges | None, at: tuple[str, int]) -> float | None:
    """The largest input of a product; of one that nobody has run any will do."""
    return None if ranges is None else ranges.get(at) or 1.0
