# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent: the shape of a Nemotron-H model that members (`subnet`) are cut from. `manifest` has the `Family`."""

from __future__ import annotations

import math
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from nemo_elastic.core.kinds.mamba import GROUPS, MAMBA_HEADS, SHARDS
from nemo_elastic.core.kinds.record import Kind, Widths
from nemo_elastic.core.kinds.registry import (
    AXES,
    DEPTH,
    HIDDEN,
    KINDS,
    layer_axes,
    striped_axes,
    symbols,
)
from nemo_elastic.core.prefix import BlockedPrefix
from nemo_elastic.core.subnet import Layer, Subnet, intersect, largest
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.fields import known_names
from nemo_elastic.io.values import plain

__all__ = [
    "MAX_LAYERS", "MAX_SIZE", "MAX_TENSORS", "VOCAB", "Layer", "Parent", "Subnet", "choices_of", "cuts_heads",
    "first_difference", "intersect", "largest", "positive", "positive_real", "regroups",
]  # fmt: skip

VOCAB = "vocab"
#: width over which the RMSNorms of a member's residual stream average
NORMS = OWN_WIDTH, PARENT_WIDTH = "member", "parent"
#: upper bounds (layers, one size, tensors in total), so that a damaged file cannot fill the memory
MAX_LAYERS, MAX_SIZE, MAX_TENSORS = 10_000, 2**24, 2**19


def positive(field: str, value: Any) -> int:
    """Return `value` if it is a size that a model can have."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad(field, value, "a positive integer")
    if value > MAX_SIZE:
        raise bad(field, value, f"at most {MAX_SIZE}: no model has more")
    return value


def positive_real(field: str, value: Any) -> float:
    """Return `value` if it is a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise bad(field, value, "must be a positive number")
    return value


@dataclass(frozen=True, init=False)
class Parent:
    """Shape of a hybrid model; every size in channels, heads or tokens.

    Every entry of `sizes` is an attribute, too (`parent.ffn`). Constructor and `dataclasses.replace` take sizes by
    name; the constructor also takes the sizes that every parent has by position: hidden, vocab, ffn, mamba_heads,
    mamba_head_dim, mamba_groups, state, conv_kernel, attention_heads, kv_heads, attention_head_dim.

    Attributes:
        pattern: one symbol per layer: M (Mamba-2), - (squared-ReLU MLP), * (attention), E (experts), or that of a
            registered kind.
        sizes: name -> size: hidden (residual width), vocab (rows of the embedding and of the head), and the sizes of
            its kinds of layers: axes (ffn: MLP width, mamba_heads x mamba_head_dim: Mamba inner width, ...), rigid
            sizes (state: SSM state per head channel, conv_kernel: taps of the causal convolution, ...), and stripes:
            blocks of an axis, shared equally by any tensor-parallel size that divides their number.
        tied: the head shares the embedding's weight.
        norm_eps: epsilon of its norms.
        norm: width over which the norms of a member's residual stream average: "member", or "parent" if the stream was
            rotated. Cuts of a rotated parent have the weights of these norms times `norm_factor`.
    """

    pattern: str
    sizes: Mapping[str, Any]
    tied: bool
    norm_eps: float
    norm: str

    def __init__(
        self,
        pattern: str,
        hidden: int | None = None,
        vocab: int | None = None,
        *ordered: int,
        sizes: Mapping[str, Any] | None = None,
        tied: bool = False,
        norm_eps: float = 1e-5,
        norm: str = OWN_WIDTH,
        **named: Any,
    ) -> None:
        """Check a shape.

        Args:
            pattern, tied, norm_eps, norm: see the class.
            hidden, vocab, ordered, named: sizes.
            sizes: values of sizes that are not given otherwise; the remaining ones have their defaults.

        Raises:
            ElasticError: a missing or wrong field; a size that no layer has; blocks that do not divide their axis.
        """
        names = _base_sizes()
        if len(ordered) > len(names) - 2:
            raise TypeError(f"sizes in order are {', '.join(names)}; others have names")
        in_order = zip(names, (hidden, vocab, *ordered), strict=False)
        first = {name: value for name, value in in_order if value is not None}
        given = {name: plain(value) for name, value in (dict(sizes or {}) | named | first).items()}
        fields = {"pattern": pattern, "tied": tied, "norm_eps": norm_eps, "norm": norm, "sizes": given}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        pattern = self.pattern
        unknown = sorted(set(pattern) - set(symbols())) if isinstance(pattern, str) else [pattern]
        if unknown or not pattern:
            raise bad("parent.pattern", pattern, f"a pattern has one of {_listed(symbols())} per layer")
        if len(pattern) > MAX_LAYERS:
            raise bad("parent.pattern", pattern, f"at most {MAX_LAYERS} layers")
        object.__setattr__(self, "sizes", self._complete(dict(self.sizes)))
        if not isinstance(self.tied, bool):
            raise bad("parent.tied", self.tied, "true or false")
        if isinstance(self.norm_eps, bool) or not isinstance(self.norm_eps, float) or not 0 < self.norm_eps < 1:
            raise bad("parent.norm_eps", self.norm_eps, "a number between 0 and 1")
        if self.norm not in NORMS:
            raise bad("parent.norm", self.norm, f"one of {', '.join(NORMS)}")
        self._check_tensors()
        for axis in self.axes:
            if axis != DEPTH:
                self.axis(axis)  # raises where blocks do not divide

    def _complete(self, given: dict[str, Any]) -> Widths:
        """Add defaults to sizes and check them; the result is in the order of files."""
        kinds = _kinds_of(self.pattern)
        given = {size: value for kind in kinds for size, value in kind.defaults.items()} | given
        wanted = {HIDDEN, VOCAB, *(size for kind in kinds for size in kind.variant(given).sizes)}
        for name in sorted(wanted - given.keys()):
            raise ElasticError(f"parent.{name}: missing")
        for name in sorted(given.keys() - wanted):
            raise ElasticError(f"parent.{name}: no layer has this size")
        reals = {size for kind in kinds for size in kind.reals}
        for name in (names := size_names(self.pattern, given)):
            (positive_real if name in reals else positive)(f"parent.{name}", given[name])
        return Widths({name: given[name] for name in names})

    def _check_tensors(self) -> None:
        """Raise for more than `MAX_TENSORS` tensors of one kind."""
        for kind in self.kinds:
            layers = self.pattern.count(kind.symbol)
            for size in {row.each for row in kind.rows if row.each is not None}:
                rows = sum(row.each == size for row in kind.rows)
                if layers * rows * self.sizes[size] > MAX_TENSORS:
                    most = MAX_TENSORS // (layers * rows)
                    raise bad(f"parent.{size}", self.sizes[size], f"at most {most} in each of {layers} layers")

    def __getattr__(self, name: str) -> Any:
        """A size by its name."""
        sizes = self.__dict__.get("sizes", {})
        if name in sizes:
            return sizes[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @cached_property
    def _hash(self) -> int:
        return hash((self.pattern, self.sizes, self.tied, self.norm_eps, self.norm))

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # another process hashes in another way

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Names of the layers' kinds in order."""
        named = {kind.symbol: name for name, kind in KINDS.items()}
        return tuple(named[c] for c in self.pattern)

    @cached_property
    def attention_layers(self) -> frozenset[int]:
        """Indices of the layers with a KV cache."""
        return frozenset(i for i, name in enumerate(self.types) if KINDS[name].attends)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of its layers in the registry's order, each as this parent's variant."""
        return tuple(kind.variant(self.sizes) for kind in KINDS.values() if kind.symbol in self.pattern)

    def has(self, size: str) -> bool:
        """Whether it has an optional size (`Kind.without`)."""
        return size in self.sizes

    def kind(self, name: str) -> Kind:
        """This parent's variant of a kind."""
        return KINDS[name].variant(self.sizes)

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of its families: the common ones first, then those of optional kinds."""
        return (*AXES, *(axis for kind in self.kinds for axis in kind.widths if axis not in AXES))

    @property
    def num_layers(self) -> int:
        return len(self.pattern)

    def size(self, name: str) -> Any:
        """A size by name."""
        return self.sizes[name]

    def axis(self, name: str, widths: Mapping[str, int] | None = None) -> BlockedPrefix:
        """The blocked prefix of an axis; depth is no argument, as it keeps layers, not channels.

        Args:
            name: of the axis.
            widths: of a layer, to give a nested axis (heads in key-value groups) the blocks that this layer keeps.
        """
        if name == HIDDEN:
            return BlockedPrefix(self.sizes[HIDDEN], 1, name)
        kind = layer_axes()[name][0].variant(self.sizes)
        axis, size = kind.axis[name], self.sizes[name]
        blocks = 1 if axis.blocks is None else self.sizes[axis.blocks]
        if widths is not None and name in kind.nested:
            size, blocks = size // blocks * widths[kind.nested[name]], widths[kind.nested[name]]
        least = 1 if axis.least is None else self.sizes[axis.least]
        multiple_of = 1 if axis.multiple_of is None else self.sizes[axis.multiple_of]
        return BlockedPrefix(size, blocks, name, least, multiple_of)

    @cached_property
    def full(self) -> Subnet:
        """The member that is the parent itself."""
        return self.uniform()

    def widths(self, kind: str, choices: Mapping[str, Any]) -> Mapping[str, Any]:
        """Widths of a layer for choices of its axes, integers or expected ones.

        A choice of a nested axis is the width with all blocks: in a layer that keeps half of the key-value heads, a
        choice of 32 query heads is a width of 16.
        """
        return self.kind(kind).recount(choices, self.sizes, choices)

    def choices(self, layer: Layer) -> Mapping[str, int]:
        """Undo `widths`."""
        return self.kind(layer.type).recount(layer.widths, layer.widths, self.sizes)

    def layer(self, index: int, **widths: int) -> Layer:
        """Layer `index` at full width, except for the `widths` given by axis name."""
        kind = self.kind(self.types[index])
        for axis in widths:
            if axis not in kind.widths:
                raise bad("axis", axis, f"a {kind.name} layer has {', '.join(kind.widths)}")
        whole = self.widths(kind.name, {axis: widths.get(axis, self.sizes[axis]) for axis in kind.widths})
        return Layer(index, kind.name, dict(whole) | widths)

    def uniform(self, keep: Iterable[int] | None = None, **widths: int) -> Subnet:
        """A member with the same width in all layers of a kind.

        Args:
            keep: indices of the kept layers, all by default.
            **widths: absolute widths by axis name (hidden, ffn, mamba_heads, mamba_head_dim, attention_heads).
        """
        for axis in widths:
            if axis not in self.axes or axis == DEPTH:
                raise bad("axis", axis, f"one of {', '.join(a for a in self.axes if a != DEPTH)}")
        layers = tuple(
            self.layer(i, **{axis: widths[axis] for axis in self.kind(self.types[i]).widths if axis in widths})
            for i in (range(self.num_layers) if keep is None else sorted(keep))
        )
        return Subnet(widths[HIDDEN] if HIDDEN in widths else self.sizes[HIDDEN], layers).validate(self)

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("pattern", "tied", "norm_eps", "norm")} | dict(self.sizes)
        names = _field_names(self.pattern, self.sizes)
        return {name: values[name] for name in names if name != "norm" or self.norm != OWN_WIDTH}

    @classmethod
    def from_json(cls, data: Any, field: str = "parent") -> Parent:
        """Read what `to_json` wrote; unknown or missing fields are errors."""
        sizes = data if isinstance(data, Mapping) else {}
        pattern = sizes.get("pattern")
        known = known_names(_field_names(pattern if isinstance(pattern, str) else "", sizes), data, field)
        for name in ("pattern", HIDDEN, VOCAB):
            if name not in known:
                raise ElasticError(f"{field}.{name}: missing")
        return cls(**known)

    def norm_factor(self, source: int, target: int) -> float:
        """Factor on the weights of the stream's norms in a cut from residual width `source` to `target`.

        The first d of D channels give ``x / sqrt(sum(x**2) / D + eps * d / D)``, an RMSNorm over d times sqrt(D / d).
        """
        return math.sqrt(source / target) if self.norm == PARENT_WIDTH else 1.0

    def laid_out_as(self, other: Parent) -> Parent:
        """The same shape with another parent's stripes, which are only a storage layout, and its `norm`."""
        stripes = striped_axes()
        channels = {name: size for name, size in self.sizes.items() if name not in stripes.values()}
        shared = (size for axis, size in stripes.items() if axis in channels and size in other.sizes)
        theirs = {size: other.sizes[size] for size in shared}
        return replace(self, sizes=channels | theirs, norm=other.norm)


def cuts_heads(parent: Parent, member: Subnet) -> bool:
    """Whether a layer of a member has fewer Mamba heads than the parent."""
    return any(width < parent.sizes[MAMBA_HEADS] for width in member.widths(MAMBA_HEADS))


def regroups(parent: Parent, member: Subnet) -> bool:
    """Whether Mamba heads of a member share B and C with other heads than in the parent; no mask can compute that."""
    return parent.sizes.get(SHARDS, 0) % parent.sizes[GROUPS] != 0 and cuts_heads(parent, member)


def first_difference(a: Parent, b: Parent) -> str | None:
    """The first field in which two parents differ, or None."""
    ours, theirs = a.to_json(), b.to_json()
    return next((name for name in ours | theirs if ours.get(name) != theirs.get(name)), None)


def _kinds_of(pattern: str) -> list[Kind]:
    """Kinds whose sizes a parent with this pattern has."""
    return [kind for kind in KINDS.values() if kind.always or kind.symbol in pattern]


def size_names(pattern: str, sizes: Container[str]) -> list[str]:
    """Names of a parent's sizes in the order of files: those of every parent, stripes, the others."""
    kinds, stripes = _kinds_of(pattern), set(striped_axes().values())
    names = [(kind, size) for kind in kinds for size in kind.variant(sizes).sizes]
    first = [size for kind, size in names if kind.always and size not in stripes]
    others = [size for kind, size in names if not kind.always and size not in stripes]
    return [HIDDEN, VOCAB, *first, *(size for _, size in names if size in stripes), *others]


def _base_sizes() -> tuple[str, ...]:
    """Names of the sizes that every parent has, without stripes."""
    return tuple(size for size in size_names("", ()) if size not in striped_axes().values())


def _field_names(pattern: str, sizes: Container[str]) -> list[str]:
    """Fields of a parent in files."""
    names, base = size_names(pattern, sizes), _base_sizes()
    return ["pattern", *base, "tied", "norm_eps", "norm", *(name for name in names if name not in base)]


def _listed(letters: str) -> str:
    return f"{', '.join(letters[:-1])} and {letters[-1]}"


def choices_of(parent: Parent, member: Subnet, axis: str) -> tuple[int, ...]:
    """A member's choices of an axis: one for `hidden`, else one for each layer that has the axis."""
    if axis == HIDDEN:
        return (member.hidden,)
    return tuple(parent.choices(layer)[axis] for layer in member.layers if axis in layer.widths)
