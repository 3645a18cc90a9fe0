# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""ONE table: every tensor, its HF, Megatron and GGUF names, and the axes of each dimension.

Ranking, sorting, slicing, counting, renaming and the tests' checks read it. Rows of layers are in the records of their
kinds (`kinds/`); embedding, final norm and head are here. A new tensor or axis is a new row, not a new branch.
Sources: transformers' `nemotron_h`, NeMo's `HFNemotronHExporter`, megatron-core's `MambaMixer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import mul
from typing import Any

from nemo_elastic.core.family import VOCAB, Layer, Parent, Subnet
from nemo_elastic.core.kinds.record import HF_LAYER, Kind, Part, Row
from nemo_elastic.core.kinds.registry import HIDDEN, KINDS, layer_axes
from nemo_elastic.core.prefix import Grid, Selection

_VOCAB, _HIDDEN = (VOCAB,), (HIDDEN,)
#: tensors before and after the layers
FIRST = (
    Row("embedding", None, "backbone.embeddings.weight", "embedding.word_embeddings.weight",
        ((_VOCAB,), (_HIDDEN,)), 0, gguf="token_embd.weight"),
)  # fmt: skip
LAST = (
    Row("final_norm", None, "backbone.norm_f.weight", "decoder.final_norm.weight", ((_HIDDEN,),),
        extra=("decoder.final_norm",), gguf="output_norm.weight"),
    Row("head", None, "lm_head.weight", "output_layer.weight", ((_VOCAB,), (_HIDDEN,)), 0, extra=("output_layer",),
        gguf="output.weight"),
)  # fmt: skip


def table() -> tuple[Row, ...]:
    """Every row in storage order, with all optional rows of every kind."""
    return (*FIRST, *(row for kind in KINDS.values() for row in kind.rows), *LAST)


def by_name(name: str) -> Row:
    """The row with this name."""
    return next(row for row in table() if row.name == name)


def is_stream_norm(row: Row) -> bool:
    """Whether a row is the weight of a norm over the residual stream."""
    return row.dims == ((_HIDDEN,),)


def is_exact(name: str) -> bool:
    """Whether the tensor of this Hugging Face name stays fp32 (`Row.exact`), also in prediction layers."""
    return name.endswith(tuple(row.hf.removeprefix(HF_LAYER) for row in table() if row.exact))


def sizes(parent: Parent, hidden: Any, layer: Any | None) -> dict[str, Any]:
    """Size of every term in a layer of a member: integers, or expected widths (tensors) for a router's choice."""
    out: dict[str, Any] = {VOCAB: parent.sizes[VOCAB], "one": 1, HIDDEN: hidden}
    if layer is not None:
        out |= {name: parent.sizes[name] for name in parent.kind(layer.type).rigid}
        out |= layer.widths
    return out


def _grid(term: str, source: dict[str, Any], target: dict[str, Any]) -> Grid:
    """Factors of one term: those of its blocks and the channels in a block; a single factor without blocks."""
    n, k = source[term], target[term]
    axis = layer_axes()[term][0].variant(source).axis.get(term) if term in layer_axes() else None
    blocks = None if axis is None else axis.blocks
    if blocks is None or blocks not in source:
        return Grid((n,), (k,))
    return _grid(blocks, source, target) * Grid((n // source[blocks],), (k // target[blocks],))


def selection(
    parent: Parent, row: Row, dim: int, source: Subnet, target: Subnet, index: int | None = None
) -> Selection:
    """Positions that `target` (<= `source`) keeps of dimension `dim` of `source`'s tensor, in layer `index`."""
    s = sizes(parent, source.hidden, source.by_index[index] if index is not None else None)
    t = sizes(parent, target.hidden, target.by_index[index] if index is not None else None)
    return _selection(row.dims[dim], tuple(s.items()), tuple(t.items()))


@lru_cache(maxsize=65536)
def _selection(parts: tuple[Part, ...], source: tuple, target: tuple) -> Selection:
    s, t = dict(source), dict(target)
    return Selection(tuple(reduce(mul, (_grid(term, s, t) for term in part)) for part in parts))


def fused(row: Row, kind: Kind | None) -> tuple[Row, ...]:
    """Rows that share the Megatron tensor of `row`, in their order there; `kind` None for tensors outside layers."""
    rows = (*FIRST, *LAST) if kind is None else kind.rows
    return tuple(r for r in rows if r.megatron == row.megatron)


def megatron_selection(
    parent: Parent, row: Row, dim: int, source: Subnet, target: Subnet, index: int | None = None
) -> Selection:
    """`selection` for the Megatron tensor that contains `row`."""
    together = fused(row, None if row.layer is None else parent.kind(row.layer))
    if dim or len(together) == 1:
        return selection(parent, row, dim, source, target, index)
    grids = [grid for r in together for grid in selection(parent, r, 0, source, target, index).parts]
    if row.interleaved is None:
        return Selection(tuple(grids))
    s, t = (sizes(parent, m.hidden, m.by_index[index] if index is not None else None) for m in (source, target))
    outer = _grid(row.interleaved, s, t)
    first = len(outer.shape)  # the interleaved rows' first factors are the groups
    return Selection(tuple(Grid(g.shape[first:], g.kept[first:]) for g in grids), outer)


def groups(parent: Parent, row: Row, layer: Layer | None) -> int:
    """Number of groups by which the Megatron tensor of `row` interleaves its rows in a layer; 1 without."""
    return 1 if row.interleaved is None else sizes(parent, parent.hidden, layer)[row.interleaved]


def shape(parent: Parent, row: Row, member: Any, layer: Any | None = None) -> tuple[Any, ...]:
    """Shape of a tensor in a member: the sum over parts of the product over terms, per dimension."""
    return row_shape(row, sizes(parent, member.hidden, layer))


def row_shape(row: Row, size: dict[str, Any]) -> tuple[Any, ...]:
    """`shape` from `sizes`, for several tensors of one layer."""
    return tuple(sum(_part_sizes(parts, size)) for parts in row.dims)


def part_sizes(parent: Parent, row: Row, dim: int, member: Subnet, layer: Layer | None = None) -> list[int]:
    """Sizes of the parts that are concatenated in a dimension of a tensor."""
    return _part_sizes(row.dims[dim], sizes(parent, member.hidden, layer))


def _part_sizes(parts: tuple[Part, ...], size: dict[str, Any]) -> list[Any]:
    return [math.prod(size[term] for term in part) for part in parts]


def ends(parent: Parent) -> tuple[Row, ...]:
    """Rows of the tensors outside the layers; a tied head has no tensor."""
    return (*FIRST, *_last(parent))


def _last(parent: Parent) -> tuple[Row, ...]:
    return tuple(row for row in LAST if not (row.name == "head" and parent.tied))


def elements(row: Row, size: dict[str, Any], used: bool = False) -> Any:
    """Number of elements in all tensors of a row; with `used` only of the tensors that one token passes through."""
    total = _number(row, size, used)
    for n in row_shape(row, size):
        total = total * n
    return total


def _number(row: Row, size: dict[str, Any], used: bool) -> Any:
    if row.each is None:
        return 1
    return size[row.used] if used and row.used is not None else size[row.each]


def numbers(row: Row, layer: Layer | None) -> Sequence[int | None]:
    """Values of {e} in the names of a row's tensors in a layer of a member; (None,) for a single tensor."""
    return range(layer.widths[row.each]) if row.each is not None and layer is not None else (None,)


def original(
    parent: Parent, row: Row, number: int | None, source: Subnet, target: Subnet, index: int | None = None
) -> int | None:
    """Number in `source` of the tensor with this number in `target` (<= `source`); see `numbers`."""
    if number is None or index is None:
        return None
    return originals(parent, row, source, target, index)[number]


def originals(parent: Parent, row: Row, source: Subnet, target: Subnet, index: int) -> tuple[int, ...]:
    """Numbers in `source` of the row's tensors that `target` (<= `source`) keeps in layer `index`."""
    assert row.each is not None
    s, t = (sizes(parent, member.hidden, member.by_index[index]) for member in (source, target))
    return _first(row.each, tuple(s.items()), tuple(t.items()))


@lru_cache(maxsize=4096)
def _first(axis: str, source: tuple, target: tuple) -> tuple[int, ...]:
    return tuple(_grid(axis, dict(source), dict(target)).indices().tolist())


def named(template: str, index: int | None = None, number: int | None = None) -> str:
    """Fill layer index and tensor number into `Row.hf` or `Row.megatron`."""
    return template.format(i="" if index is None else index, e="" if number is None else number)


def keys(row: Row, layer: Layer) -> Iterator[tuple[str, int | None]]:
    """Names of a row's tensors in one layer without the kind's prefix, each with its number: `up.3`, 3."""
    name = row.name.partition(".")[2]
    for number in numbers(row, layer):
        yield (name if number is None else f"{name}.{number}"), number


def rows(parent: Parent, member: Any) -> Iterator[tuple[Row, Any | None]]:
    """Every row of a member in storage order: (row, layer), layer None outside the layers."""
    for row in FIRST:
        yield row, None
    for layer in member.layers:
        for row in parent.kind(layer.type).rows:
            yield row, layer
    for row in _last(parent):
        yield row, None


@dataclass(frozen=True)
class Tensor:
    """One tensor of a concrete member: its names (numbered within the member), shape, row, and number in its row."""

    row: Row
    layer: Layer | None
    hf: str
    megatron: str
    shape: tuple[int, ...]
    number: int | None = None
    gguf: str = ""

    @property
    def index(self) -> int | None:
        """Index of its layer in the parent."""
        return None if self.layer is None else self.layer.index

    @property
    def random(self) -> str:
        """Initialisation: `Row.random`, else "norm" for a vector and "matrix" otherwise."""
        return self.row.random or ("norm" if len(self.shape) == 1 else "matrix")


def tensors(parent: Parent, member: Subnet) -> list[Tensor]:
    """All tensors of a member, layers renumbered from zero as in its checkpoint."""
    position = {layer.index: i for i, layer in enumerate(member.layers)}
    out = []
    for row, layer in rows(parent, member):
        i = position[layer.index] if layer is not None else None
        size = shape(parent, row, member, layer)
        for e in numbers(row, layer):
            hf, megatron, gguf = (named(name, i, e) for name in (row.hf, row.megatron, row.gguf))
            out.append(Tensor(row, layer, hf, megatron, size, e, gguf))
    return out


def megatron_shape(together: Sequence[Tensor]) -> tuple[int, ...]:
    """Shape of the Megatron tensor that concatenates these; see `megatron_tensors`."""
    return (sum(t.shape[0] for t in together), *together[0].shape[1:])


def megatron_tensors(parent: Parent, member: Subnet) -> dict[str, list[Tensor]]:
    """Megatron name -> the tensors of a member that it concatenates, in their order there."""
    return by_megatron(tensors(parent, member))


def by_megatron(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """Group tensors by their Megatron name."""
    out: dict[str, list[Tensor]] = {}
    for t in tensors:
        out.setdefault(t.megatron, []).append(t)
    return out
