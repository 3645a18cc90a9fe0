# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a kind of layer is: its axes, its sizes, its tensors, and what it costs beside them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nemo_elastic.io.values import plain

#: A part of a dimension: the row-major product of terms. A term is an axis or a size that every member keeps.
Part = tuple[str, ...]
#: size of every term in one layer: integers, or expected widths (tensors)
Sizes = Mapping[str, Any]

#: names that rows give tensors of a layer {i}
HF_LAYER, MEGATRON_LAYER = "backbone.layers.{i}.", "decoder.layers.{i}."


class Widths(Mapping[str, int]):
    """Axis -> width (or another size by name), immutable and hashable, in the order of the kind's axes."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, int] | None = None) -> None:
        self._items = {name: plain(width) for name, width in (items or {}).items()}

    def __getitem__(self, axis: str) -> int:
        return self._items[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, Widths) else other)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Row:
    """One tensor of the model, or of every layer of a kind.

    Attributes:
        name: our name, unique.
        layer: kind of layer that holds it; None for the model's own.
        hf: name in a Hugging Face folder ({i}: layer index).
        megatron: name in megatron-core's MambaModel with NeMo's default spec. Rows of one layer that share it are
            fused there along dimension 0, in table order.
        dims: for each dimension the parts that lie side by side in it.
        parallel: dimension that tensor parallelism shards, None for replicas.
        each: axis of whose channels each has a tensor of its own, of the shape `dims`, with its number {e} in the
            names; None for one tensor.
        used: size of `Parent` that says how many of these tensors a token meets; None for all.
        stacked: name of the one tensor of megatron-core's checkpoints that holds them all, one behind the other along
            a dimension in front.
        interleaved: size of `Parent` by whose number of groups rows that share a tensor are interleaved.
        parts: names under which megatron-core's checkpoints store the parts of dimension 0, each a tensor of its own
            that any tensor-parallel size can reshard; none where they store the tensor whole.
        extra: modules of which such a checkpoint holds an `_extra_state` beside the tensor (scales of FP8), one for
            each of several. A strict load asks for the object even where it says nothing.
        exact: no cast may round it: it stays fp32 where the others get fewer digits, in files and in memory.
        quantized: low precision may store it: the weight of a matrix product, whose blocks of scales run along its
            last dimension.
        random: what its numbers are like in a model of random weights (`nn.weights.RANDOM`); None: those of a norm's
            weight or of a matrix, by its dimensions.
    """

    name: str
    layer: str | None
    hf: str
    megatron: str
    dims: tuple[tuple[Part, ...], ...]
    parallel: int | None = None
    interleaved: str | None = None
    each: str | None = None
    used: str | None = None
    stacked: str | None = None
    parts: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    exact: bool = False
    quantized: bool = False
    random: str | None = None


@dataclass(frozen=True)
class Axis:
    """An axis of one kind of layer.

    Attributes:
        name: in an `elastic:` block, rankings and tables; also the size of the parent that it cuts.
        field: key of a layer's width in files.
        words: what pages and pictures call it.
        blocks: size that says in how many equal blocks it lies; None for one. Where that is an axis, too, a layer has
            the blocks that it keeps, and each of them keeps as many channels.
        block_words: what messages call these blocks.
        grouped: a channel belongs to its block (heads that share something); else blocks are a layout in storage.
        stripes: these blocks are stripes, of which an `elastic:` block chooses the number: so many, unless it says, or
            as many fewer as divide every width. 0 where they are not.
        least: size of the parent below which no width of the axis may be; None for one block.
        each: axis of whose channels each has an order of its own on this axis.
        even: size of the parent of which every width is a multiple, too.
        shared_by: ranks that share these blocks, each as many: "tensor" or "expert tensor" parallel ones; None where
            they may lie on the ranks in any way.
        per_layer: whether an `elastic:` block may give each layer its own width.
    """

    name: str
    field: str
    words: str
    blocks: str | None = None
    block_words: str = "blocks"
    grouped: bool = False
    per_layer: bool = False
    stripes: int = 0
    least: str | None = None
    each: str | None = None
    even: str | None = None
    shared_by: str | None = "tensor"


def nothing(sizes: Sizes, length: int) -> Any:
    """No FLOPs beside matrix products."""
    return 0


def stateless(sizes: Sizes, batch: int, length: int) -> dict[str, Any]:
    """Nothing is carried from token to token."""
    return {}


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        symbol: its letter in a layer pattern.
        name: in files and tables.
        words: what pages and pictures call it.
        axes: its axes, in order; one with the whole model's width comes after one that layers may choose.
        rigid: sizes that every member keeps.
        rows: its tensors, in storage order.
        site: the probe's site at which importance is read (`nn.gates.Probe`).
        shape: of the activation there, as terms.
        sites: `RankOptions.ffn` -> another site of the same shape that it asks for.
        more_sites: further sites -> shape of the activation there, as terms; it scores the last of them.
        counted: site -> another one that says how often each of its channels was in use: the score is the mean over
            that.
        flops: (sizes, length) -> forward FLOPs per token beside matrix products.
        cache: (sizes, batch, length) -> elements of the decoding state: "kv" and "conv" in the cache's dtype, "ssm"
            in the state's.
        always: every parent has its sizes, and every family's files speak of its axes, whether there are such layers
            or not.
        recalls: its layers look at earlier tokens themselves, so that recall of a long context rests on them.
        along: axis of heads, which ranks that share a sequence out share inside of a layer that looks along it; None
            where a layer looks at one position at a time.
        halved: several such ranks may share the heads of one block, each with a copy of what those have in common.
        defaults: size -> its value where nothing says it.
        reals: sizes among `rigid` that need not be whole.
        lacking: size that a parent need not have -> the record of parents without it; its axes and rows are among
            those of this one. Both have the same symbol and name. An axis whose stripes may be lacking is one only of
            families whose block lists it: else all members keep it whole, and it is a rigid size.
        hf: size -> its keys in Hugging Face's `config.json`, the one that we write first.
        hf_types: names in lists of layer types there, the one that we write first.
        hf_fixed: key there -> the only value with which the kind can be cut.
        megatron: size -> its field in megatron-core's or NeMo's config.
    """

    symbol: str
    name: str
    words: str
    axes: tuple[Axis, ...]
    rigid: tuple[str, ...]
    rows: tuple[Row, ...]
    site: str
    shape: tuple[str, ...]
    hf: Mapping[str, tuple[str, ...]]
    hf_types: tuple[str, ...]
    sites: Mapping[str, str] = field(default_factory=dict)
    more_sites: Mapping[str, Part] = field(default_factory=dict)
    counted: Mapping[str, str] = field(default_factory=dict)
    megatron: Mapping[str, str] = field(default_factory=dict)
    flops: Callable[[Sizes, int], Any] = nothing
    cache: Callable[[Sizes, int, int], dict[str, Any]] = stateless
    always: bool = False
    recalls: bool = False
    along: str | None = None
    halved: bool = False
    defaults: Mapping[str, int] = field(default_factory=dict)
    reals: tuple[str, ...] = ()
    lacking: Mapping[str, Kind] = field(default_factory=dict)
    hf_fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def widths(self) -> tuple[str, ...]:
        """Names of its axes."""
        return tuple(axis.name for axis in self.axes)

    @cached_property
    def tensors(self) -> dict[str, Row]:
        """Its rows by their names without its own."""
        return {row.name.partition(".")[2]: row for row in self.rows}

    @cached_property
    def axis(self) -> Mapping[str, Axis]:
        """Its axes by name."""
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def nested(self) -> Mapping[str, str]:
        """Axis -> the axis that is its blocks."""
        return {axis.name: axis.blocks for axis in self.axes if axis.blocks in self.widths}

    def recount(self, widths: Sizes, before: Sizes, after: Sizes) -> Sizes:
        """Convert nested widths, integers or expected ones, to another number of blocks; a block keeps its channels.

        Args:
            widths: axis -> width in a layer; only nested axes change.
            before, after: size -> number of blocks, as `widths` counts them and as the result counts them. A size that
                is missing stands for one block, so an empty `after` gives the width of each block.
        """

        def each(axis: str, blocks: str) -> Any:
            n, own = widths[axis], before.get(blocks, 1)
            return n // own if isinstance(n, int) else n / own

        own = {axis: each(axis, b) * after.get(b, 1) for axis, b in self.nested.items() if axis in widths}
        return {**widths, **own} if own else widths

    def mix(self, pick: Callable[[Iterable[int]], int], layers: Sequence[Sizes]) -> Sizes:
        """The smallest (`min`) or largest (`max`) width of each axis in several layers; nested axes are compared by
        the width of a block.
        """
        each = [self.recount(widths, widths, {}) for widths in layers]
        axes = dict.fromkeys(axis for widths in each for axis in widths)
        out = {axis: pick(widths[axis] for widths in each if axis in widths) for axis in axes}
        return self.recount(out, {}, out)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of all sizes of a parent that concern it alone."""
        return (*self.widths, *self.rigid)

    def of(self, sizes: Container[str]) -> Kind:
        """The record for a parent that has these sizes; without any the one with the fewest axes."""
        return next((kind.of(sizes) for size, kind in self.lacking.items() if size not in sizes), self)
