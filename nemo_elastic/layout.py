# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""ONE table: every Nemotron-H tensor, its HF and Megatron names, and the axis on which each dimension lies.

Ranking and sorting, slicing, counting, renaming and the checks of the tests are driven by `ROWS`. A new tensor or a
new axis is a new row, not a new branch. Sources: transformers' `nemotron_h`, NeMo's `HFNemotronHExporter`,
megatron-core's `MambaMixer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
            fused there along dimension 0, in table order.
        dims: for each dimension the parts that lie side by side in it.
        parallel: dimension that tensor parallelism shards, None for replicas.
        interleaved: field of `Parent` by whose number of groups rows that share a tensor are interleaved.
        parts: names under which megatron-core's checkpoints store the parts of dimension 0, each a tensor of its own
            that any tensor-parallel size can reshard; none where they store the tensor whole.
        extra: modules of which such a checkpoint holds an `_extra_state` beside the tensor (scales of FP8). A strict
            load asks for the object even where it says nothing.
    """

    name: str
    layer: str | None
    hf: str
    megatron: str
    dims: tuple[tuple[Part, ...], ...]
    parallel: int | None = None
    interleaved: str | None = None
    parts: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


_H, _M = "backbone.layers.{i}.", "decoder.layers.{i}."
_IN, _OUT, _CONV = _M + "mixer.in_proj", _M + "mixer.out_proj", _M + "mixer.conv1d"
_UP, _DOWN = _M + "mlp.linear_fc1", _M + "mlp.linear_fc2"
_QKV, _CORE, _PROJ = (_M + "self_attention." + m for m in ("linear_qkv", "core_attention", "linear_proj"))
_GROUPS = "kv_heads"

ROWS: tuple[Row, ...] = (
    Row("embedding", None, "backbone.embeddings.weight", "embedding.word_embeddings.weight",
        ((VOCAB,), (HIDDEN,)), 0),
    Row("mamba.pre_norm", MAMBA, _H + "norm.weight", _IN + ".layer_norm_weight", ((HIDDEN,),)),
    Row("mamba.in_proj", MAMBA, _H + "mixer.in_proj.weight", _IN + ".weight",
        ((Z, X, B, C, DT), (HIDDEN,)), 0, parts=("z", "x", "B", "C", "dt"), extra=(_IN,)),
    Row("mamba.conv_weight", MAMBA, _H + "mixer.conv1d.weight", _CONV + ".weight",
        ((X, B, C), (("one",),), (("conv_kernel",),)), 0, parts=("x", "B", "C")),
    Row("mamba.conv_bias", MAMBA, _H + "mixer.conv1d.bias", _CONV + ".bias", ((X, B, C),), 0, parts=("x", "B", "C")),
    Row("mamba.a_log", MAMBA, _H + "mixer.A_log", _M + "mixer.A_log", ((PER_HEAD,),), 0),
    Row("mamba.d", MAMBA, _H + "mixer.D", _M + "mixer.D", ((PER_HEAD,),), 0),
    Row("mamba.dt_bias", MAMBA, _H + "mixer.dt_bias", _M + "mixer.dt_bias", ((PER_HEAD,),), 0),
    Row("mamba.norm", MAMBA, _H + "mixer.norm.weight", _M + "mixer.norm.weight", ((INNER,),), 0),
    Row("mamba.out_proj", MAMBA, _H + "mixer.out_proj.weight", _OUT + ".weight", ((HIDDEN,), (INNER,)), 1,
        extra=(_OUT,)),
    Row("mlp.pre_norm", MLP, _H + "norm.weight", _UP + ".layer_norm_weight", ((HIDDEN,),)),
    Row("mlp.up", MLP, _H + "mixer.up_proj.weight", _UP + ".weight", ((("ffn",),), (HIDDEN,)), 0, extra=(_UP,)),
    Row("mlp.down", MLP, _H + "mixer.down_proj.weight", _DOWN + ".weight", ((HIDDEN,), (("ffn",),)), 1,
        extra=(_DOWN,)),
    Row("attention.pre_norm", ATTENTION, _H + "norm.weight", _QKV + ".layer_norm_weight", ((HIDDEN,),)),
    Row("attention.q", ATTENTION, _H + "mixer.q_proj.weight", _QKV + ".weight", ((QUERY,), (HIDDEN,)), 0, _GROUPS,
        extra=(_QKV,)),
    Row("attention.k", ATTENTION, _H + "mixer.k_proj.weight", _QKV + ".weight", ((KEY_VALUE,), (HIDDEN,)), 0, _GROUPS),
    Row("attention.v", ATTENTION, _H + "mixer.v_proj.weight", _QKV + ".weight", ((KEY_VALUE,), (HIDDEN,)), 0, _GROUPS),
    Row("attention.out", ATTENTION, _H + "mixer.o_proj.weight", _PROJ + ".weight", ((HIDDEN,), (QUERY,)), 1,
        extra=(_CORE, _PROJ)),
    Row("final_norm", None, "backbone.norm_f.weight", "decoder.final_norm.weight", ((HIDDEN,),),
        extra=("decoder.final_norm",)),
    Row("head", None, "lm_head.weight", "output_layer.weight", ((VOCAB,), (HIDDEN,)), 0, extra=("output_layer",)),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}
_BY_MEGATRON = {row.megatron: tuple(r for r in ROWS if r.megatron == row.megatron) for row in ROWS}

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


def fused(row: Row) -> tuple[Row, ...]:
    """The rows that the Megatron tensor of `row` holds, in the order in which they lie there."""
    return _BY_MEGATRON[row.megatron]


def megatron_selection(
    parent: Parent, row: Row, dim: int, source: Subnet, target: Subnet, index: int | None = None
) -> Selection:
    """What `target` keeps of dimension `dim` of the Megatron tensor that holds `row`; see `selection`."""
    together = fused(row)
    if dim or len(together) == 1:
        return selection(parent, row, dim, source, target, index)
    outer = groups(parent, row)
    grids = [selection(parent, r, 0, source, target, index).parts for r in together]
    # what is interleaved by groups has them as its first factor
    per_group = tuple(Grid(g.shape[1:], g.kept[1:]) if outer > 1 else g for grid in grids for g in grid)
    return Selection(per_group, outer=outer)


def groups(parent: Parent, row: Row) -> int:
    """Groups by which the Megatron tensor of `row` interleaves what it holds."""
    return 1 if row.interleaved is None else int(getattr(parent, row.interleaved))


def shape(parent: Parent, row: Row, member: Any, layer: Any | None = None) -> tuple[Any, ...]:
    """Shape of a tensor in a member: the sum over parts of the product over terms, per dimension."""
    size = sizes(parent, member.hidden, layer)
    return tuple(sum(_part_sizes(parts, size)) for parts in row.dims)


def part_sizes(parent: Parent, row: Row, dim: int, member: Subnet, layer: Layer | None = None) -> list[int]:
    """Sizes of the parts that lie side by side in a dimension of a tensor."""
    return _part_sizes(row.dims[dim], sizes(parent, member.hidden, layer))


def _part_sizes(parts: tuple[Part, ...], size: dict[str, Any]) -> list[Any]:
    return [math.prod(size[term] for term in part) for part in parts]


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


def megatron_shape(together: Sequence[Tensor]) -> tuple[int, ...]:
    """Shape of a whole Megatron tensor, of what it holds: see `megatron_tensors`."""
    return (sum(t.shape[0] for t in together), *together[0].shape[1:])


def megatron_tensors(parent: Parent, member: Subnet) -> dict[str, list[Tensor]]:
    """The tensors of a member's `MambaModel` by name: what each holds, in the order in which it lies there."""
    out: dict[str, list[Tensor]] = {}
    for t in tensors(parent, member):
        out.setdefault(t.megatron, []).append(t)
    return out
