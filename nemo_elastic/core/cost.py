# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters, memory and FLOPs of a member: exact on integers, differentiable on expected widths.

Every function takes a `Subnet` (integers, exact) or a member of `ExpectedLayer`s, whose widths and keep probabilities
are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from nemo_elastic.core.family import Layer, Parent
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.layout import elements, ends, sizes
from nemo_elastic.core.precision import SCHEMES, low_layers
from nemo_elastic.io.fields import Between, OneOf, check

#: bytes per element of the dtypes a member is served or trained in
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "q8_0": 34 / 32, "nvfp4": 0.5625}

#: bytes per element of weights that low precision does not quantize
FULL_BYTES = DTYPE_BYTES["bf16"]
#: parameters to count: all, those that a token passes through, those that stay fp32, those that are quantized
ALL, USED, EXACT, LOW = "all", "used", "exact", "low"


@dataclass(frozen=True)
class ExpectedLayer:
    """A layer that stays with probability `keep`; widths are expected channels (0-dim tensors or numbers) by axis."""

    index: int
    type: str
    widths: Mapping[str, Any]
    keep: Any = 1


@dataclass(frozen=True)
class MemorySpec:
    """Memory of a deployment: weights + KV cache + SSM and convolution state.

    Attributes:
        batch: sequences decoded at once.
        length: maximum tokens of each.
        weights: dtype of the weights; tensors that must stay fp32 are counted as fp32. With nvfp4 or fp8 only the
            quantized layers (`precision.default_rows`) count in that dtype, and the rest as bf16.
        cache: dtype of the KV cache and the convolution state.
        state: dtype of the SSM state.
    """

    batch: Annotated[int, Between(1)] = 1
    length: Annotated[int, Between(1)] = 8192
    weights: Annotated[str, OneOf(DTYPE_BYTES)] = "bf16"
    cache: Annotated[str, OneOf(DTYPE_BYTES)] = "bf16"
    state: Annotated[str, OneOf(DTYPE_BYTES)] = "fp32"

    def __post_init__(self) -> None:
        check(self, "memory")


def parameters(parent: Parent, member: Any) -> Any:
    """Number of parameters of a member, summed over the layout table (a tied head counts once)."""
    return _count(parent, member, ALL)


def active_parameters(parent: Parent, member: Any) -> Any:
    """Number of parameters that one token passes through: without the experts that it is not routed to."""
    return _count(parent, member, USED)


def has_inactive(parent: Parent) -> bool:
    """Whether active parameters are fewer than all: the parent has routed experts."""
    return any(row.used is not None for kind in parent.kinds for row in kind.rows)


def counts(parent: Parent, member: Any) -> dict[str, int]:
    """Parameters of a member by their names in files; the active ones only for parents with experts."""
    active = {"active_parameters": active_parameters(parent, member)} if has_inactive(parent) else {}
    return {"parameters": parameters(parent, member), **active}


def _unquantized_bytes(weights: str) -> float:
    """Bytes per element of weights that stay unquantized when serving in `weights`."""
    return FULL_BYTES if weights in SCHEMES else DTYPE_BYTES[weights]


def _count(parent: Parent, member: Any, which: str) -> Any:
    size = sizes(parent, member.hidden, None)
    total = sum(elements(row, size) for row in ends(parent) if _counts(row, which))
    low = low_layers(parent) if which == LOW else ()
    for layer in member.layers:
        if which == LOW and layer.index not in low:
            continue
        # a search asks for the same layers thousands of times
        count = _remembered_parameters if isinstance(layer, Layer) else _layer_parameters
        total = total + layer.keep * count(parent, member.hidden, layer.type, layer.widths, which)
    return total


def _counts(row: Row, which: str) -> bool:
    return {EXACT: row.exact, LOW: row.quantized}.get(which, True)


def _layer_parameters(parent: Parent, hidden: Any, kind: str, widths: Mapping[str, Any], which: str) -> Any:
    size = sizes(parent, hidden, ExpectedLayer(0, kind, widths))
    rows = (row for row in parent.kind(kind).rows if _counts(row, which))
    return sum(elements(row, size, used=which == USED) for row in rows)


_remembered_parameters: Callable[..., Any] = lru_cache(maxsize=65536)(_layer_parameters)


def cache_elements(parent: Parent, member: Any, batch: int, length: int) -> dict[str, Any]:
    """Elements of the decoding state: {"kv", "conv", "ssm"} for `batch` sequences of `length` tokens."""
    out: dict[str, Any] = {"kv": 0, "conv": 0, "ssm": 0}
    for layer in member.layers:
        state = KINDS[layer.type].cache(sizes(parent, member.hidden, layer), batch, length)
        for name, count in state.items():
            out[name] = out[name] + layer.keep * count
    return out


def memory(parent: Parent, member: Any, spec: MemorySpec) -> Any:
    """Bytes to serve a member under `spec`, without activations and fragmentation."""
    cache = cache_elements(parent, member, spec.batch, spec.length)
    return (
        parameters(parent, member) * _unquantized_bytes(spec.weights)
        - (_count(parent, member, LOW) * (FULL_BYTES - DTYPE_BYTES[spec.weights]) if spec.weights in SCHEMES else 0)
        + _count(parent, member, EXACT) * max(0, DTYPE_BYTES["fp32"] - _unquantized_bytes(spec.weights))
        + (cache["kv"] + cache["conv"]) * DTYPE_BYTES[spec.cache]
        + cache["ssm"] * DTYPE_BYTES[spec.state]
    )


def flops_per_token(parent: Parent, member: Any, length: int = 1, *, head: bool = True) -> Any:
    """Forward FLOPs per token (multiply and add count as two) at a context of `length` tokens.

    Matrix products, the convolution, the SSM recurrence and causal attention over `length`/2 tokens on average are
    counted; norms and gates are not. Training costs about three times as much.
    """
    total = 2 * parent.vocab * member.hidden if head else 0
    for layer in member.layers:
        count = _remembered_flops if isinstance(layer, Layer) else _layer_flops
        total = total + layer.keep * count(parent, member.hidden, layer.type, layer.widths, length)
    return total


def _layer_flops(parent: Parent, hidden: Any, kind: str, widths: Mapping[str, Any], length: int) -> Any:
    size = sizes(parent, hidden, ExpectedLayer(0, kind, widths))
    cost = parent.kind(kind).flops(size, length)
    for row in parent.kind(kind).rows:
        if len(row.dims) >= 2:
            cost = cost + 2 * elements(row, size, used=True)
    return cost


_remembered_flops: Callable[..., Any] = lru_cache(maxsize=65536)(_layer_flops)
