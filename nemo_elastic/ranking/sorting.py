# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sorting a parent by a ranking, so that every member is a blocked prefix of every tensor: fold, rotate, permute.

Driven by the layout table alone: each dimension is a concatenation of parts, each part a product of terms, and a term
that is an axis is permuted by its order. With a basis the residual stream is rotated: RMSNorm commutes with every
orthogonal matrix once its weight is folded into the linears that read it. The function of the model does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.layout import Tensor, by_name, is_stream_norm, named, sizes, tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.ranking.ranking import Ranking, block_order

if TYPE_CHECKING:
    import torch

#: dimension of a tensor that is the residual stream
_STREAM = ((HIDDEN,),)
#: rows or columns that are in double precision at a time
_PART = 4096


def permutation(
    ranking: Ranking, parent: Parent, row: Row, dim: int, layer: int | None, number: int | None = None
) -> np.ndarray | None:
    """Storage order of dimension `dim` of a tensor: position i of the sorted tensor holds position p[i].

    None where nothing moves. `parent` has the FFN stripes that the sorted model will have. `row` is the tensor's row
    of the layout table, and `number` that of one of a row's several tensors in the sorted model.
    """
    size = sizes(parent, parent.hidden, parent.layer(layer) if layer is not None else None)
    was = number if number is None else number_before(ranking, parent, row, layer, number)
    parts, at = [], 0
    for terms in row.dims[dim]:
        part = np.zeros(1, dtype=np.int64)
        for term in terms:
            part = (part[:, None] * size[term] + _term(ranking, parent, term, size[term], layer, was)).reshape(-1)
        parts.append(part + at)
        at += len(part)
    whole = np.concatenate(parts)
    return None if np.array_equal(whole, np.arange(at)) else whole


def number_before(ranking: Ranking, parent: Parent, row: Row, layer: int | None, number: int) -> int:
    """Number that one of several tensors of a row had before it was sorted."""
    assert row.each is not None
    return int(parent.axis(row.each).order_to_layout(ranking.orders[f"{row.each}.{layer}"])[number])


def moved_from(ranking: Ranking, parent: Parent, tensor: Tensor) -> str:
    """Name that a tensor of the whole parent had before it was sorted; see `permutation`."""
    if tensor.number is None:
        return tensor.hf
    return named(tensor.row.hf, tensor.index, number_before(ranking, parent, tensor.row, tensor.index, tensor.number))


def _term(ranking: Ranking, parent: Parent, term: str, size: int, layer: int | None, was: int | None) -> np.ndarray:
    if term == HIDDEN:
        return parent.axis(term).order_to_layout(ranking.orders[HIDDEN])
    nested = {} if layer is None else parent.kind(parent.types[layer]).nested
    for axis, blocks in nested.items():
        if term == blocks:
            scores = ranking.scores.get(f"{axis}.{layer}")
            if scores is None:
                raise ElasticError(
                    f"ranking: has no scores of {axis}.{layer}, which order {blocks}; rank the parent again"
                )
            return parent.axis(blocks).order_to_layout(block_order(scores, parent.size(blocks)))
    if f"{term}.{layer}" not in ranking.orders:
        return np.arange(size)
    order = ranking.orders[f"{term}.{layer}"]
    layout = parent.axis(term).order_to_layout(order if order.ndim == 1 else order[was])
    if term not in nested:
        return layout
    blocks = _term(ranking, parent, nested[term], parent.size(nested[term]), layer, None)
    return layout.reshape(len(blocks), -1)[blocks].reshape(-1)


def norm_before(parent: Parent, row: Row) -> Row | None:
    """The norm whose output a tensor reads; None for one that reads no norm's."""
    if row.name == "head":
        return by_name("final_norm")
    if row.layer is None or row.dims[1:2] != (_STREAM,):
        return None
    return parent.kind(row.layer).tensors["pre_norm"]


def rotated(
    value: torch.Tensor,
    row: Row,
    basis_dd: np.ndarray,
    norm_d: torch.Tensor | None = None,
    scale_d: torch.Tensor | None = None,
) -> torch.Tensor:
    """A tensor of a parent whose residual stream is rotated, computed in float64, in the dtype that it has.

    What reads the stream, [n, d], becomes ``W diag(norm) Q``; what writes it, [d, n], ``Qᵀ diag(scale) W``; the
    embedding ``E Q``; the weights of norms on the stream become ones. Other tensors are unchanged.

    Args:
        value: whole in the dimension of the stream; others may be a rank's shard.
        row: its row of the layout table.
        basis_dd: see `Ranking.basis`.
        norm_d: weight of `norm_before`; of a tensor that reads two streams, [n, 2d], those of both.
        scale_d: of the channels that are written; None: ones.
    """
    import torch

    if is_stream_norm(row):
        return torch.ones_like(value)
    reads, writes = set(*row.dims[1:2]) == set(_STREAM), row.dims[0] == _STREAM
    if not (reads or writes):
        return value
    q_dd = torch.from_numpy(basis_dd).to(value.device, torch.float64)
    if reads:
        size, dtype = len(q_dd), value.dtype
        norms = torch.ones_like(value[0]) if norm_d is None else norm_d
        folds = [norm.to(q_dd)[:, None] * q_dd for norm in norms.split(size)]
        read = [part.split(size, 1) for part in value.split(_PART)]
        value = torch.cat(
            [torch.cat([x.double() @ fold for x, fold in zip(each, folds, strict=True)], 1).to(dtype) for each in read]
        )
    if writes:
        q_dd = q_dd if scale_d is None else scale_d.to(q_dd)[:, None] * q_dd
        value = torch.cat([(q_dd.T @ part.double()).to(value.dtype) for part in value.split(_PART, 1)], 1)
    return value


def rescaling(final_d: torch.Tensor, shared_d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale [d] of the stream of MTP layers under which their final norm reads the shared head as the trunk's does.

    The head W of a rotated parent has the trunk's norm inside, ``W diag(shared) Q``, but the step's logits are
    ``W diag(final) n(x)``. With channels ``x diag(scale)``, ``scale = final / shared / c``, they are nearly
    ``c W diag(shared) n(x diag(scale))``: norms of the rescaled stream differ by a factor for each token, whose mean
    is near one for this c, the root of the mean square. Weights near zero are taken as a hundredth of their mean.

    Returns:
        The scale, and c, which is the weight of the step's final norm.
    """

    def size(weight_d: torch.Tensor) -> torch.Tensor:
        return weight_d.square().mean().sqrt()

    def away(weight_d: torch.Tensor) -> torch.Tensor:
        return weight_d.abs().clamp(min=size(weight_d) / 100).copysign(weight_d)

    ratio_d = away(final_d.double()) / away(shared_d.double())
    return ratio_d / size(ratio_d), size(ratio_d)


def sort(state: Mapping[str, Any], ranking: Ranking, parent: Parent | None = None) -> dict[str, Any]:
    """Sort a state dict with Hugging Face names; tensors may be torch's or numpy's, of any dtype.

    All tensors of the parent have to be there, but a tied head. `parent` has the FFN stripes that the sorted model
    will have; None takes the ranking's. The new dict is in the same order, and tensors that do not move are the same
    objects. `ElasticError` for a ranking of another parent, or a tensor that is missing, unknown or of another shape.
    """
    parent = parent or ranking.parent
    ranking.check(parent)
    table = {t.hf: t for t in tensors(replace(parent, tied=False), parent.full)}
    required = {t.hf for t in tensors(parent, parent.full)}
    for name in sorted(required - set(state)):
        raise ElasticError(f"sort: the state dict has no {name!r}")
    out = {}
    for name, value in state.items():
        if name not in table:
            raise ElasticError(f"sort: {name!r} is no tensor of a Nemotron-H parent; rename or remove it first")
        tensor = table[name]
        if tuple(value.shape) != tensor.shape:
            raise ElasticError(f"sort: {name!r} has shape {tuple(value.shape)}, this parent's is {tensor.shape}")
        value = state[moved_from(ranking, parent, tensor)]
        for dim in range(len(tensor.shape)):
            p = permutation(ranking, parent, tensor.row, dim, tensor.index, tensor.number)
            if p is not None:
                value = _take(value, p, dim)
        if ranking.basis is not None:
            norm = norm_before(parent, tensor.row)
            weight = None if norm is None else state[named(norm.hf, tensor.index)]
            value = _rotated(value, tensor.row, ranking.basis, weight)
        out[name] = value
    return out


def _rotated(value: Any, row: Row, basis: np.ndarray, norm: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return rotated(value, row, basis, norm)
    import torch

    return rotated(torch.from_numpy(value), row, basis, None if norm is None else torch.from_numpy(norm)).numpy()


def _take(value: Any, p: np.ndarray, dim: int) -> Any:
    if isinstance(value, np.ndarray):
        return np.take(value, p, axis=dim)
    import torch

    return value.index_select(dim, torch.from_numpy(p).to(value.device))
