# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Functions from checkpoint to checkpoint that cut and cast; nothing is read before rows are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nemo_elastic.core import layout
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.prediction import all_tensors, is_mtp
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.dtypes import check_convertible, parse_dtype, stored_as
from nemo_elastic.formats.low_precision import (
    Changed,
    SplitBlockError,
    cache_of_member,
    requantized,
    select,
    share_changed,
)
from nemo_elastic.formats.tensor import Tensor

__all__ = ["Rounding", "cast", "cut", "is_torn", "kept_parts", "norm_factors", "without_mtp"]


@dataclass(frozen=True)
class Rounding:
    """Changes of a cut beyond copying, known after its tensors were read.

    Attributes:
        zeros: numbers that became 0 in another dtype, by tensor and first row.
        changed: see `low_precision.Changed`.
    """

    zeros: dict[tuple[str, int], int] = field(default_factory=dict)
    changed: Changed = field(default_factory=dict)

    @property
    def underflowed(self) -> int:
        """How many numbers became 0."""
        return sum(self.zeros.values())

    @property
    def requantized(self) -> float | None:
        """See `low_precision.share_changed`."""
        return share_changed(self.changed)


def without_mtp(source: Checkpoint) -> Checkpoint:
    """A checkpoint without its layers that predict further tokens."""
    tensors = {name: t for name, t in source.tensors.items() if not is_mtp(name)}
    storage = {name: stored for name, stored in source.storage.items() if not is_mtp(name)}
    return replace(source, tensors=tensors, storage=storage, prediction=None)


def kept_parts(source: Checkpoint, target: Subnet) -> dict[str, tuple[str, tuple[Selection, ...]]]:
    """Weight of a member, in storage order -> the source's name of it, and the selection of each dimension."""
    parent, subnet, prediction = source.parent, source.subnet, source.prediction
    ours, theirs = (all_tensors(parent, member, prediction) for member in (subnet, target))
    if prediction is not None:
        subnet, target = (prediction.extend_member(parent, member) for member in (subnet, target))
        parent = prediction.extend(parent)
    names = {(t.row.name, t.index, t.number): t.hf for t in ours}
    out: dict[str, tuple[str, tuple[Selection, ...]]] = {}
    selections: dict[tuple[str, int | None], tuple[Selection, ...]] = {}  # all experts of a layer have the same
    for t in theirs:
        number = layout.original(parent, t.row, t.number, subnet, target, t.index)
        kept = selections.get((t.row.name, t.index))
        if kept is None:
            kept = selections[t.row.name, t.index] = tuple(
                layout.selection(parent, t.row, dim, subnet, target, t.index) for dim in range(len(t.shape))
            )
        if (name := names.get((t.row.name, t.index, number))) is not None:
            out[t.hf] = name, kept
    return out


def cut(source: Checkpoint, target: Subnet, requantize: bool = False, rounding: Rounding | None = None) -> Checkpoint:
    """A member, with its tensors in storage order.

    Args:
        source: The source.
        target: A member nested in `source.subnet`.
        requantize: Compute codes and scales again where a block with one scale stays in part; needs torch.
        rounding: Gets what that changed.
    """
    changed = Rounding().changed if rounding is None else rounding.changed
    factors = norm_factors(source, target)
    model: dict[str, Tensor] = {}
    mtp: dict[str, Tensor] = {}
    storage = {}
    for name_in_target, (name, kept) in kept_parts(source, target).items():
        tensors = mtp if is_mtp(name_in_target) else model
        if name not in source.storage:
            tensors[name_in_target] = source.tensors[name].take(kept).scale(factors.get(name_in_target, 1))
            continue
        storage[name_in_target] = stored = source.storage[name]
        try:
            parts = _cut_low(source, name, kept, requantize, changed)
        except SplitBlockError as exc:
            raise ElasticError(
                f"{source.folder}: {name} in {source.dtype_of(name)} cannot be cut as bytes: {exc}"
            ) from None
        tensors |= {full: parts[part] for part, full in stored.parts(name_in_target).items()}
    cache = cache_of_member(source.tensors, source.subnet, target)
    model |= {name_in_target: source.tensors[name] for name_in_target, name in cache.items()}
    if source.prediction is None and target == source.subnet:
        mtp = {name: source.tensors[name] for name in source.mtp}
    return replace(source, subnet=target, tensors={**model, **mtp}, storage=storage, family=None)


def _cut_low(
    source: Checkpoint, name: str, kept: tuple[Selection, ...], requantize: bool, changed: Changed
) -> dict[str, Tensor]:
    """What stays of each tensor of a weight of low precision."""
    stored, parts = source.storage[name], source.parts(name)
    try:
        return select(stored, parts, kept)
    except SplitBlockError:
        if not requantize and kept[1].kept_size % stored.scheme.block == 0:
            raise
        return requantized(name, stored, parts, kept, changed)


def norm_factors(source: Checkpoint, target: Subnet) -> dict[str, float]:
    """What weights of a member's norms over the residual stream are multiplied by, where that is not 1."""
    factor = source.parent.norm_factor(source.subnet.hidden, target.hidden)
    if factor == 1:
        return {}
    tensors = all_tensors(source.parent, target, source.prediction)
    return {t.hf: factor for t in tensors if layout.is_stream_norm(t.row)}


def is_torn(source: Checkpoint, target: Subnet) -> bool:
    """Whether a member keeps a part of a block that has one scale."""
    try:
        cut(source, target)
    except ElasticError:
        return True
    return False


def cast(source: Checkpoint, dtype: str | None, rounding: Rounding | None = None) -> Checkpoint:
    """A checkpoint cast to another dtype, except for `Row.exact` tensors, which become F32; unchanged with None.

    Args:
        source: The source; weights in low precision are refused.
        dtype: A user's name of it.
        rounding: Gets how many numbers became 0.
    """
    if dtype is None:
        return source
    header, zeros = parse_dtype(dtype), None if rounding is None else rounding.zeros
    for name in source.names:
        check_convertible(dtype, name, source.dtype_of(name))
    tensors = {name: t.cast(stored_as(name, header), name, zeros) for name, t in source.tensors.items()}
    return replace(source, tensors=tensors)
