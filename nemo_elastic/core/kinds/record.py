# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The record of a kind of layer: axes, sizes, tensors, FLOPs and decoding state."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nemo_elastic.io.values import plain

#: A part of a tensor's dimension: the row-major product of terms. A term is an axis or a size that no member cuts.
Part = tuple[str, ...]
#: term -> its size in one layer: an integer, or an expected width (tensor) while the router is trained
Sizes = Mapping[str, Any]

#: prefixes of a layer's tensor names; {i}: layer index
HF_LAYER, MEGATRON_LAYER, GGUF_LAYER = "backbone.layers.{i}.", "decoder.layers.{i}.", "blk.{i}."


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
        layer: kind of layer that has it; None for the embedding, the final norm and the head.
        hf: name in a Hugging Face folder ({i}: layer index).
        megatron: name in megatron-core's MambaModel with NeMo's default spec. Rows of one layer that share it are
            fused there along dimension 0, in table order.
        dims: for each dimension the parts that are concatenated along it.
        parallel: dimension that tensor parallelism shards; None for replicated tensors.
        each: axis with one tensor per channel (experts), each of shape `dims`; {e} in the names is the channel. None
            for a single tensor.
        used: size of `Parent` giving the number of these tensors that a token passes through (top-k); None for all.
        stacked: name of megatron-core's checkpoint tensor that stacks them along a new dimension 0.
        interleaved: size of `Parent` giving the number of groups by which rows that share a tensor are interleaved.
        parts: names under which megatron-core's checkpoints store the parts of dimension 0 as separate tensors, so
            that any tensor-parallel size can reshard them; empty where the tensor is stored whole.
        extra: modules with an `_extra_state` (FP8 scales) in megatron-core's checkpoints, one per tensor of `each`. A
            strict load needs the entry even if it is empty.
        exact: stays fp32 when the other tensors are cast to fewer bits, in files and in memory.
        quantized: low precision may store it: the weight of a matrix product, with blocks of scales along its last
            dimension.
        random: its initialisation in a model of random weights (`nn.weights.RANDOM`); None: that of a norm's weight
            or of a matrix, by its number of dimensions.
        gguf: name in a GGUF file, where a row with `each` is one tensor of all its channels; empty if llama.cpp has
            no such tensor.
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
    gguf: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis of one kind of layer.

    Attributes:
        name: in an `elastic:` block, rankings and tables; also the size of the parent that it cuts.
        field: key of a layer's width in files.
        words: name on pages and in pictures.
        blocks: parent size giving the number of equal blocks; None for one block. If that size is an axis, too (heads
            in key-value groups), a layer keeps some of the blocks and equally many channels of each.
        block_words: name of the blocks in messages.
        grouped: a channel belongs to its block (heads of one group); else blocks are only a storage layout.
        stripes: default number of blocks where an `elastic:` block chooses it, lowered until it divides every width;
            0 where the parent fixes the number.
        least: parent size that is the smallest width; None for one block.
        each: axis whose channels (experts) each have their ranking order of this axis.
        multiple_of: parent size that divides every width, in addition to `blocks`.
        shared_by: ranks that hold equally many blocks each: "tensor" or "expert tensor" parallel; None where blocks
            may be spread in any way.
        per_layer: an `elastic:` block may give every layer another width.
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
    multiple_of: str | None = None
    shared_by: str | None = "tensor"


def nothing(sizes: Sizes, length: int) -> Any:
    """FLOPs of a kind that has only matrix products."""
    return 0


def stateless(sizes: Sizes, batch: int, length: int) -> dict[str, Any]:
    """Decoding state of a kind that treats every token by itself."""
    return {}


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        symbol: its letter in a layer pattern.
        name: in files and tables.
        words: name on pages and in pictures.
        axes: in the order of files; an axis with one width for the whole model comes after the per-layer ones.
        rigid: sizes that no member cuts.
        rows: tensors, in storage order.
        site: the probe's site (`nn.gates.Probe`) whose activations give the importance of the first axis.
        shape: terms of that activation's channels.
        sites: value of `RankOptions.ffn` -> the site of the same shape that it reads instead.
        more_sites: further site -> terms of its channels; its activations score the last term.
        use_counts: site -> the site that counts how often each of its channels was used; the score is the mean over
            those uses.
        flops: (sizes, length) -> forward FLOPs per token, without matrix products.
        cache: (sizes, batch, length) -> elements of the decoding state: "kv" and "conv" in the cache's dtype, "ssm"
            in the state's dtype.
        always: every parent and every family's files have its sizes and axes, with or without layers of this kind.
        attends: its layers have a KV cache, on which recall of a long context depends.
        cp_axis: axis of heads that context-parallel ranks divide inside the layer; None where the layer treats every
            position by itself.
        cp_splits_groups: several context-parallel ranks may divide the heads of one group and replicate the rest of
            that group (keys and values).
        defaults: size -> its value in files that leave it out.
        reals: sizes among `rigid` that need not be integers.
        without: optional size -> the record of parents that do not have it, with the same symbol and name and with
            some of the axes and rows. If the optional size counts the stripes of an axis, that axis can be cut only in
            families whose block lists it; in others it is a rigid size.
        hf: size -> its keys in Hugging Face's `config.json`; we write the first.
        hf_types: names in lists of layer types there; we write the first.
        hf_fixed: key there -> the only value that can be cut.
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
    use_counts: Mapping[str, str] = field(default_factory=dict)
    megatron: Mapping[str, str] = field(default_factory=dict)
    flops: Callable[[Sizes, int], Any] = nothing
    cache: Callable[[Sizes, int, int], dict[str, Any]] = stateless
    always: bool = False
    attends: bool = False
    cp_axis: str | None = None
    cp_splits_groups: bool = False
    defaults: Mapping[str, int] = field(default_factory=dict)
    reals: tuple[str, ...] = ()
    without: Mapping[str, Kind] = field(default_factory=dict)
    hf_fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def widths(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @cached_property
    def tensors(self) -> dict[str, Row]:
        """Suffix of a row's name ("up" of "mlp.up") -> row."""
        return {row.name.partition(".")[2]: row for row in self.rows}

    @cached_property
    def axis(self) -> Mapping[str, Axis]:
        """Name of an axis -> its record."""
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the axes that tensors have, whose channels are ranked and sorted; the others only route."""
        terms = {term for row in self.rows for parts in row.dims for part in parts for term in part}
        return tuple(axis for axis in self.widths if axis in terms | {row.each for row in self.rows})

    @cached_property
    def nested(self) -> Mapping[str, str]:
        """Axis -> the axis whose channels are its blocks (heads -> key-value groups)."""
        return {axis.name: axis.blocks for axis in self.axes if axis.blocks in self.widths}

    def recount(self, widths: Sizes, before: Sizes, after: Sizes) -> Sizes:
        """Rescale nested widths to another number of blocks; a block keeps its number of channels.

        Args:
            widths: axis -> width in a layer, an integer or an expected width; only nested axes change.
            before, after: size -> number of blocks in `widths` and in the result. A missing size stands for one block,
                so an empty `after` gives the width of one block.
        """

        def per_block(axis: str, blocks: str) -> Any:
            width, count = widths[axis], before.get(blocks, 1)
            return width // count if isinstance(width, int) else width / count

        changed = {axis: per_block(axis, b) * after.get(b, 1) for axis, b in self.nested.items() if axis in widths}
        return {**widths, **changed} if changed else widths

    def mix(self, pick: Callable[[Iterable[int]], int], layers: Sequence[Sizes]) -> Sizes:
        """The smallest (`min`) or largest (`max`) width of each axis in several layers; nested axes are compared by
        the width of a block.
        """
        per_block = [self.recount(widths, widths, {}) for widths in layers]
        axes = dict.fromkeys(axis for widths in per_block for axis in widths)
        out = {axis: pick(widths[axis] for widths in per_block if axis in widths) for axis in axes}
        return self.recount(out, {}, out)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the parent sizes that belong to this kind: axes and rigid sizes."""
        return (*self.widths, *self.rigid)

    @cached_property
    def variants(self) -> tuple[Kind, ...]:
        """This record and those of parents without its optional sizes."""
        return (self, *(variant for kind in self.without.values() for variant in kind.variants))

    def variant(self, sizes: Container[str]) -> Kind:
        """The record of parents with these sizes; with no optional size the one with the fewest axes."""
        return next((kind.variant(sizes) for size, kind in self.without.items() if size not in sizes), self)
