# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which part of every tensor of a source a member keeps; nothing is read before rows are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.low_precision import Torn, Weights, cache_of_member, requantized, select
from nemo_elastic.formats.schemes import Stored
from nemo_elastic.formats.source import Source
from nemo_elastic.formats.tensor import Tensor

__all__ = ["cut_behind", "cut_weights", "is_torn", "kept_parts", "norm_factors"]

#: weight of a member -> the source's name of it, and what stays of each dimension
Parts = dict[str, tuple[str, tuple[Selection, ...]]]


def kept_parts(source: Source, target: Subnet) -> Parts:
    """For each weight of a member in storage order: the source's name of it, and the selection of each dimension."""
    parent, held = source.parent, source.held
    return _parts(parent, held, target, layout.tensors(parent, held), layout.tensors(parent, target))


def _parts_behind(source: Source, target: Subnet) -> Parts:
    """The same of layers that predict more than one token, as far as the member has them; see `left_out`."""
    if source.predicts is None:
        return {name: (name, ()) for name in source.behind.names} if target == source.held else {}
    behind, parent = source.predicts, source.parent
    held, kept = behind.member(parent, source.held), behind.member(parent, target)
    if held is None or kept is None:
        return {}
    ours, theirs = behind.tensors(parent, source.held), behind.tensors(parent, target)
    return _parts(behind.behind(parent), held, kept, ours, theirs)


def _parts(
    parent: Parent, held: Subnet, target: Subnet, ours: Sequence[layout.Tensor], theirs: Sequence[layout.Tensor]
) -> Parts:
    names = {(t.row.name, t.index, t.number): t.hf for t in ours}
    out: Parts = {}
    selections: dict[tuple[str, int | None], tuple[Selection, ...]] = {}  # all experts of a layer have the same
    for t in theirs:
        index = t.index
        own = layout.original(parent, t.row, t.number, held, target, index)
        kept = selections.get((t.row.name, index))
        if kept is None:
            kept = selections[t.row.name, index] = tuple(
                layout.selection(parent, t.row, dim, held, target, index) for dim in range(len(t.shape))
            )
        out[t.hf] = names[t.row.name, index, own], kept
    return out


def cut_weights(source: Source, target: Subnet, requantize: bool = False) -> Weights:
    """A member's weights in storage order, and scales of its key-value cache.

    Args:
        source: The source.
        target: A member nested in `source.held`.
        requantize: Compute codes and scales again where a block with one scale stays in part; needs torch.
    """
    out = _cut(source, source.weights, kept_parts(source, target), requantize, norm_factors(source, target))
    cache = cache_of_member(source.tensors, source.held, target)
    return replace(out, tensors={**out.tensors, **{own: source.tensors[name] for own, name in cache.items()}})


def cut_behind(source: Source, target: Subnet, requantize: bool = False) -> Weights:
    """The same of layers that predict more than one token, as far as the member has them."""
    return _cut(source, source.behind, _parts_behind(source, target), requantize, norm_factors(source, target))


def norm_factors(source: Source, target: Subnet) -> dict[str, float]:
    """What weights of a member's norms over the residual stream are multiplied by, where that is not 1."""
    factor = source.parent.norm_factor(source.held.hidden, target.hidden)
    if factor == 1:
        return {}
    tensors = layout.tensors(source.parent, target)
    tensors += [] if source.predicts is None else source.predicts.tensors(source.parent, target)
    return {t.hf: factor for t in tensors if layout.is_stream_norm(t.row)}


def is_torn(source: Source, target: Subnet) -> bool:
    """Whether a member keeps a part of a block that has one scale."""
    try:
        cut_weights(source, target)
    except ElasticError:
        return True
    return False


def _cut(source: Source, weights: Weights, parts: Parts, requantize: bool, factors: Mapping[str, float]) -> Weights:
    tensors: dict[str, Tensor] = {}
    low: dict[str, Stored] = {}
    weights = replace(weights, changed={})  # of this cut alone
    for own, (name, kept) in parts.items():
        if name not in weights.quantized:
            tensors[own] = weights.tensors[name].take(kept).scale(factors.get(own, 1))
            continue
        low[own] = weights.quantized[name]
        try:
            some = _low(weights, name, kept, requantize)
        except Torn as torn:
            raise ElasticError(
                f"{source.folder}: {name} in {weights.dtype(name)} cannot be cut as bytes: {torn}"
            ) from None
        tensors |= {full: some[part] for part, full in low[own].parts(own).items()}
    return Weights(tensors, low, weights.changed)


def _low(weights: Weights, name: str, kept: tuple[Selection, ...], requantize: bool) -> Mapping[str, Tensor]:
    """What stays of each tensor of a weight of low precision."""
    try:
        return {part: tensor.take(own) for part, (tensor, own) in select(weights, name, kept).items()}
    except Torn:
        if not requantize and kept[1].kept_size % weights.quantized[name].scheme.block == 0:
            raise
        return requantized(weights, name, kept)
