# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of one member, cut out of a larger one's state dict: views where a width is a prefix, gathers elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.layout import is_stream_norm, keys, named, original, rows, selection, tensors
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.nn.functional import cast_dtype, work_dtype


@dataclass(frozen=True)
class StoredOrder:
    """Where a matrix that is not stored in the member's order has the channels of the member.

    Attributes:
        rows: int64 [out]: output channel i is row rows[i]; None where they are in order.
        columns: int64 [in]: input channel i multiplies column columns[i]; other columns get
            the input 0. None where they are in order.
    """

    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer at the widths of `layer`; the names are those of the layout table without their prefix.

    Of a row with several tensors each has its number in the member behind the name: `up.3`.

    Attributes:
        layer: its widths.
        tensors: by name. Vectors have the channels of `layer` in order; a matrix may have an entry in `orders`.
        orders: by name, of matrices that store their channels in another order.
    """

    layer: Layer
    tensors: Mapping[str, torch.Tensor]
    orders: Mapping[str, StoredOrder] = field(default_factory=dict)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """``x @ W.T``: channels [..., in] to channels [..., out], both in the order of `layer`.

        Computed in the dtype of `x`.
        """
        weight, at = self.tensors[name], self.orders.get(name)
        if at is None:
            return F.linear(x, weight.to(x.dtype))
        if at.columns is not None:
            x = x.new_zeros(*x.shape[:-1], weight.shape[1]).scatter_(-1, at.columns.expand_as(x), x)
        y = F.linear(x, weight.to(x.dtype))
        return y if at.rows is None else y.gather(-1, at.rows.expand(*y.shape[:-1], -1))


@dataclass(frozen=True)
class Weights:
    """Everything that a forward of `member` reads.

    Attributes:
        parent: shape of the whole model.
        member: what the tensors below are sized for.
        embedding, head: [vocab, d]; the same tensor where they are tied.
        layers: the kept layers in order.
        final_norm: [d].
    """

    parent: Parent
    member: Subnet
    embedding: torch.Tensor
    layers: Sequence[LayerWeights]
    final_norm: torch.Tensor
    head: torch.Tensor


def cut(parent: Parent, held: Subnet, state: Mapping[str, torch.Tensor], member: Subnet | None = None) -> Weights:
    """Weights of `member`, by default all of `held`, cut out of its `state`, which has Hugging Face names.

    Gradients flow back into `state`, and only into what `member` keeps. `ElasticError` where it is not nested in
    `held`.
    """
    member = held if member is None else check_nested(parent, held, member)
    return _weights(parent, held, state, member, tuple(_layer(parent, held, state, member, x) for x in member.layers))


def streamed(parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> Weights:
    """Weights of `member` from a `state` that reads tensors on access: a layer is read when it is used."""
    return _weights(parent, member, state, member, _StreamedLayers(parent, member, state))


class _StreamedLayers(Sequence[LayerWeights]):
    """The layers of a member, of which the last one used is in memory."""

    def __init__(self, parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> None:
        self._parent, self._member, self._state = parent, member, state
        self._last: tuple[int, LayerWeights] | None = None

    def __len__(self) -> int:
        return len(self._member.layers)

    def __getitem__(self, i: int) -> LayerWeights:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._last is None or self._last[0] != i:
            self._last = None  # before the next one is read
            member = self._member
            self._last = i, _layer(self._parent, member, self._state, member, member.layers[i])
        return self._last[1]


def _weights(
    parent: Parent, held: Subnet, state: Mapping[str, torch.Tensor], member: Subnet, layers: Sequence[LayerWeights]
) -> Weights:
    model = {row.name: _take(parent, held, state, member, row, None) for row, layer in rows(parent, held) if not layer}
    head = model["embedding" if parent.tied else "head"]
    return Weights(parent, member, model["embedding"], layers, model["final_norm"], head)


def _layer(
    parent: Parent, held: Subnet, state: Mapping[str, torch.Tensor], member: Subnet, layer: Layer
) -> LayerWeights:
    own = {
        key: _take(parent, held, state, member, row, layer, number)
        for row in parent.kind(layer.type).rows
        for key, number in keys(row, layer)
    }
    return LayerWeights(layer, own)


@lru_cache(maxsize=4096)
def check_nested(parent: Parent, held: Subnet, member: Subnet) -> Subnet:
    """Return `member` if it can be cut out of `held`, else raise `ElasticError`."""
    member.validate(parent)
    if not member <= held:
        wrong = [x.index for x in member.layers if x.index not in held.by_index or not x <= held.by_index[x.index]]
        where = f"its layers {wrong}" if wrong else f"its hidden width {member.hidden}"
        raise ElasticError(f"subnet: not nested in the loaded member: {where} exceed it")
    return member


def _take(
    parent: Parent,
    held: Subnet,
    state: Mapping[str, torch.Tensor],
    member: Subnet,
    row: Row,
    layer: Layer | None,
    number: int | None = None,
) -> torch.Tensor:
    index = None if layer is None else layer.index
    own = original(parent, row, number, held, member, index)
    t = state[named(row.hf, None if index is None else held.kept.index(index), own)]
    if member is held:
        return t
    kept = [(dim, selection(parent, row, dim, held, member, index)) for dim in range(t.dim())]
    for dim, part in sorted(kept, key=lambda x: not x[1].is_prefix):  # views first: what is then copied is narrower
        t = part.take(t, dim)
    return scaled(parent, held, member, row, t)


def scaled(parent: Parent, held: Subnet, member: Subnet, row: Row, t: torch.Tensor) -> torch.Tensor:
    """A cut tensor; weights of norms over the residual stream times `Parent.norm_factor`, at least in float32."""
    factor = parent.norm_factor(held.hidden, member.hidden) if is_stream_norm(row) else 1.0
    return t if factor == 1 else t.to(work_dtype(t)) * factor


def cut_state(
    parent: Parent, held: Subnet, state: Mapping[str, torch.Tensor], member: Subnet
) -> dict[str, torch.Tensor]:
    """State dict of `member` alone: HF names with the layers renumbered, tensors that share no memory with `state`."""
    check_nested(parent, held, member)
    return {
        t.hf: _take(parent, held, state, member, t.row, t.layer, t.number)
        .detach()
        .clone(memory_format=torch.contiguous_format)
        for t in tensors(parent, member)
    }


def check_state(parent: Parent, held: Subnet, state: Mapping[str, torch.Tensor]) -> None:
    """Raise `ElasticError` unless `state` has exactly the tensors of `held`, in their shapes."""
    shapes = {t.hf: t.shape for t in tensors(parent, held)}
    missing, unknown = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    if missing or unknown:
        word, names = ("missing", missing) if missing else ("not of this model", unknown)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ElasticError(f"weights: {', '.join(names[:3])}{more}: {word}")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise bad(f"weights: shape of {name}", tuple(state[name].shape), f"the model needs {shape}")


def random_state(
    parent: Parent, member: Subnet, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Random weights in which nothing is degenerate: no norm weight is 1, every head decays at its own rate.

    The seed fixes the values, whatever the dtype. With a `scale` above 1, a factor on the matrices of the layers, the
    residual stream is dominated by what layers add. `dtype` is that of `nn.functional.cast_dtype`.
    """
    random = torch.Generator().manual_seed(seed)
    state = {}
    for t in tensors(parent, member):
        value = RANDOM[t.random](random, t.shape)
        if t.random == "matrix" and not (t.row.name == "embedding" and not parent.tied):
            value = value * ((1 if t.layer is None else scale) / math.sqrt(value.shape[1]))
        state[t.hf] = value.to(cast_dtype(t.hf, dtype))
    return state


def _normal(random: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


def _uniform(random: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    return torch.rand(shape, generator=random, dtype=torch.float64) * (high - low) + low


def _norm(random: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return _uniform(random, shape, 0.5, 1.5) * torch.where(_uniform(random, shape, 0, 1) < 0.2, -1.0, 1.0)


def _step(random: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    dt = _uniform(random, shape, math.log(1e-3), math.log(1e-1)).exp()
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


#: `Tensor.random` -> numbers of a tensor; a matrix is scaled by its columns
RANDOM: dict[str, Callable[[torch.Generator, tuple[int, ...]], torch.Tensor]] = {
    "matrix": _normal,
    "norm": _norm,
    "decay": lambda random, shape: _uniform(random, shape, 1, 16).log(),
    "step": _step,
    "skip": lambda random, shape: _normal(random, shape) * 0.3 + 1,
    "taps": lambda random, shape: _uniform(random, shape, -1, 1) / math.sqrt(shape[-1]),
    "bias": lambda random, shape: _normal(random, shape) * 0.1,
}
