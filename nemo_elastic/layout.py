# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""ONE table: every Nemotron-H tensor, its HF and Megatron names, and the axis on which each dimension lies.

Ranking and sorting, slicing, counting, renaming and the checks of the tests are driven by `ROWS`. A new tensor or a
new axis is a new row, not a new branch. Sources: transformers' `nemotron_h`, NeMo's `HFNemotronHExporter`,
megatron-core's `MambaMixer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .family import ATTENTION, LAYER_AXES, MAMBA, MLP, Layer, Parent, Subnet
from .prefix import Grid, Selection

#: A part of a dimension: the row-major product of terms. A term is an axis or a rigid size.
Part = tuple[str, ...]

VOCAB, HIDDEN = ("vocab",), ("hidden",)
Z, X = ("mamba_heads", "mamba_head_dim"), ("mamba_heads", "mamba_head_dim")
B, C = ("mamba_groups", "state"), ("mamba_groups", "state")
DT, PER_HEAD = ("mamba_heads",), ("mamba_heads",)
INNER = ("mamba_heads", "mamba_head_dim")
QUERY, KEY_VALUE = ("attention_heads", "attention_head_dim"), ("kv_heads", "attention_head_dim")


@dataclass(frozen=True)
class Row:
    """One tensor of the model, or of every layer of a type.

    Attributes:
        name: our name, unique.
        layer: type of layer that holds it; None for the model's own.
        hf: name in a Hugging Face folder ({i}: layer index).
        megatron: name in megatron-core's MambaModel with NeMo's default spec. Rows of one layer that share it are
            fused there, interleaved by key-value group along dimension 0, in table order.
        dims: for each dimension the parts that lie side by side in it.
        parallel: dimension that tensor parallelism shards, None for replicas.
    """

    name: str
    layer: str | None
    hf: str
    megatron: str
    dims: tuple[tuple[Part, ...], ...]
    parallel: int | None = None


_H, _M = "backbone.layers.{i}.", "decoder.layers.{i}."
_QKV = _M + "self_attention.linear_qkv.weight"

ROWS: tuple[Row, ...] = (
    Row("embedding", None, "backbone.embeddings.weight", "embedding.word_embeddings.weight",
        ((VOCAB,), (HIDDEN,)), 0),
    Row("mamba.pre_norm", MAMBA, _H + "norm.weight", _M + "mixer.in_proj.layer_norm_weight", ((HIDDEN,),)),
    Row("mamba.in_proj", MAMBA, _H + "mixer.in_proj.weight", _M + "mixer.in_proj.weight",
        ((Z, X, B, C, DT), (HIDDEN,)), 0),
    Row("mamba.conv_weight", MAMBA, _H + "mixer.conv1d.weight", _M + "mixer.conv1d.weight",
        ((X, B, C), (("one",),), (("conv_kernel",),)), 0),
    Row("mamba.conv_bias", MAMBA, _H + "mixer.conv1d.bias", _M + "mixer.conv1d.bias", ((X, B, C),), 0),
    Row("mamba.a_log", MAMBA, _H + "mixer.A_log", _M + "mixer.A_log", ((PER_HEAD,),), 0),
    Row("mamba.d", MAMBA, _H + "mixer.D", _M + "mixer.D", ((PER_HEAD,),), 0),
    Row("mamba.dt_bias", MAMBA, _H + "mixer.dt_bias", _M + "mixer.dt_bias", ((PER_HEAD,),), 0),
    Row("mamba.norm", MAMBA, _H + "mixer.norm.weight", _M + "mixer.norm.weight", ((INNER,),), 0),
    Row("mamba.out_proj", MAMBA, _H + "mixer.out_proj.weight", _M + "mixer.out_proj.weight",
        ((HIDDEN,), (INNER,)), 1),
    Row("mlp.pre_norm", MLP, _H + "norm.weight", _M + "mlp.linear_fc1.layer_norm_weight", ((HIDDEN,),)),
    Row("mlp.up", MLP, _H + "mixer.up_proj.weight", _M + "mlp.linear_fc1.weight", ((("ffn",),), (HIDDEN,)), 0),
    Row("mlp.down", MLP, _H + "mixer.down_proj.weight", _M + "mlp.linear_fc2.weight", ((HIDDEN,), (("ffn",),)), 1),
    Row("attention.pre_norm", ATTENTION, _H + "norm.weight", _M + "self_attention.linear_qkv.layer_norm_weight",
        ((HIDDEN,),)),
    Row("attention.q", ATTENTION, _H + "mixer.q_proj.weight", _QKV, ((QUERY,), (HIDDEN,)), 0),
    Row("attention.k", ATTENTION, _H + "mixer.k_proj.weight", _QKV, ((KEY_VALUE,), (HIDDEN,)), 0),
    Row("attention.v", ATTENTION, _H + "mixer.v_proj.weight", _QKV, ((KEY_VALUE,), (HIDDEN,)), 0),
    Row("attention.out", ATTENTION, _H + "mixer.o_proj.weight", _M + "self_attention.linear_proj.weight",
        ((HIDDEN,), (QUERY,)), 1),
    Row("final_norm", None, "backbone.norm_f.weight", "decoder.final_norm.weight", ((HIDDEN,),)),
    Row("head", None, "lm_head.weight", "output_layer.weight", ((VOCAB,), (HIDDEN,)), 0),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}

#: Rigid terms: field of `Parent`, and the number of blocks that tensor parallelism deals out.
_RIGID = {"vocab": 1, "state": 1, "conv_kernel": 1, "attention_head_dim": 1}


def sizes(parent: Parent, hidden: Any, layer: Any | None) -> dict[str, Any]:
    """Size of every term in a member: integers, or expected widths (tensors) for the cost of a router's choice."""
    out: dict[str, Any] = {term: getattr(parent, term) for term in _RIGID}
    out |= {"one": 1, "mamba_groups": parent.mamba_groups, "kv_heads": parent.kv_heads, "hidden": hidden}
    for axis, (kind, field) in LAYER_AXES.items():
        if layer is not None and layer.type == kind:
            out[axis] = getattr(layer, field)
    return out


def _grid(parent: Parent, term: str, source: dict[str, Any], target: dict[str, Any]) -> Grid:
    """Factors of one term: an axis splits in (blocks, per block), a rigid term is one factor."""
    blocks = parent.axis(term).blocks if term in ("hidden", *LAYER_AXES) else 1
    n, k = source[term], target[term]
    return Grid((n,), (k,)) if blocks == 1 else Grid((blocks, n // blocks), (blocks, k // blocks))


def selection(
    parent: Parent, row: Row, dim: int, source: Subnet, target: Subnet, index: int | None = None
) -> Selection:
    """What `target` keeps of dimension `dim` of a tensor of `source` (target <= source), for layer `index`."""
    s = sizes(parent, source.hidden, source.by_index[index] if index is not None else None)
    t = sizes(parent, target.hidden, target.by_index[index] if index is not None else None)
    return _selection(parent, row, dim, tuple(s.items()), tuple(t.items()))


@lru_cache(maxsize=65536)
def _selection(parent: Parent, row: Row, dim: int, source: tuple, target: tuple) -> Selection:
    s, t = dict(source), dict(target)
    parts = []
    for part in row.dims[dim]:
        grid = _grid(parent, part[0], s, t)
        for term in part[1:]:
            grid = grid * _grid(parent, term, s, t)
        parts.append(grid)
    return Selection(tuple(parts))


def fused_qkv(parent: Parent, source: Subnet, target: Subnet, index: int) -> Selection:
    """Rows of Megatron's fused query-key-value projection: per key-value group [queries | key | value]."""
    n, k = source.by_index[index].heads, target.by_index[index].heads
    assert n is not None and k is not None
    kv, dim = parent.kv_heads, parent.attention_head_dim
    query, rigid = Grid((n // kv, dim), (k // kv, dim)), Grid((dim,), (dim,))
    return Selection((query, rigid, rigid), outer=kv)


def shape(parent: Parent, row: Row, member: Any, layer: Any | None = None) -> tuple[Any, ...]:
    """Shape of a tensor in a member: the sum over parts of the product over terms, per dimension."""
    size = sizes(parent, member.hidden, layer)
    dims = []
    for parts in row.dims:
        total = 0
        for part in parts:
            product = 1
            for term in part:
                product = product * size[term]
            total = total + product
        dims.append(total)
    return tuple(dims)


def rows(parent: Parent, member: Any) -> Iterator[tuple[Row, Any | None]]:
    """Every tensor of a member in storage order: (row, layer), layer None for the model's own tensors."""
    for row in ROWS:
        if row.layer is None and row.name == "embedding":
            yield row, None
    for layer in member.layers:
        for row in ROWS:
            if row.layer == layer.type:
                yield row, layer
    for row in ROWS:
        if row.layer is None and row.name != "embedding" and not (row.name == "head" and parent.tied):
            yield row, None


@dataclass(frozen=True)
class Tensor:
    """One tensor of a concrete member: its names (numbered within the member), shape, and row."""

    row: Row
    layer: Layer | None
    hf: str
    megatron: str
    shape: tuple[int, ...]


def tensors(parent: Parent, member: Subnet) -> list[Tensor]:
    """All tensors of a member, layers renumbered from zero as in its checkpoint."""
    position = {layer.index: i for i, layer in enumerate(member.layers)}
    out = []
    for row, layer in rows(parent, member):
        i = position[layer.index] if layer is not None else ""
        out.append(Tensor(row, layer, row.hf.format(i=i), row.megatron.format(i=i), shape(parent, row, member, layer)))
    return out
