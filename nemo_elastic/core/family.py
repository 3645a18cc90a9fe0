# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent: the shape of a Nemotron-H model, out of which members are cut (`subnet`).

`manifest.py` holds the named collection of members, `Family`.
"""

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
#: whose width the residual stream's norms of a member are over
NORMS = OWN_WIDTH, PARENT_WIDTH = "member", "parent"
#: more than any model has: layers, a size, and tensors in all; a line of a damaged file must not fill the memory
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

    Sizes lie in one mapping, `sizes`; each is an attribute, too (`parent.ffn`). Constructor and `dataclasses.replace`
    take them by name; the constructor also takes those that every parent has in order: ffn, mamba_heads,
    mamba_head_dim, mamba_groups, state, conv_kernel, attention_heads, kv_heads, attention_head_dim.

    Attributes:
        pattern: one symbol a layer: M (Mamba-2), - (squared-ReLU MLP), * (attention), E (experts), or that of a
            registered kind.
        sizes: name -> size: hidden (residual width), vocab (rows of the embedding and of the head), and those of its
            kinds of layers: their axes (ffn: MLP width, mamba_heads x mamba_head_dim: Mamba inner width, ...), what
            every member keeps (state: SSM state per head channel, conv_kernel: taps of the causal convolution, ...),
            and stripes: blocks of an axis, so that any tensor-parallel size that divides them has equal shares.
        tied: the head shares the embedding.
        norm_eps: epsilon of its norms.
        norm: the width over which the residual stream's norms of a member average: the "member"'s, or the "parent"'s
            where the stream was rotated. A cut then has the weights of these norms times `norm_factor`.
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
        *own: int,
        sizes: Mapping[str, Any] | None = None,
        tied: bool = False,
        norm_eps: float = 1e-5,
        norm: str = OWN_WIDTH,
        **named: Any,
    ) -> None:
        """Check a shape.

        Args:
            pattern, tied, norm_eps, norm: see the class.
            hidden, vocab, own, named: sizes.
            sizes: others that hold where neither gives one; sizes that neither gives have their defaults.

        Raises:
            ElasticError: a field that is missing or wrong; a size that no layer has; blocks that do not divide.
        """
        names = _base_sizes()
        if len(own) > len(names) - 2:
            raise TypeError(f"sizes in order are {', '.join(names)}; others have names")
        first = ((name, value) for name, value in zip(names, (hidden, vocab, *own), strict=False) if value is not None)
        given = {name: plain(value) for name, value in (dict(sizes or {}) | named | dict(first)).items()}
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
        """All sizes, checked, in the order of files."""
        kinds = _kinds_of(self.pattern)
        given = {size: value for kind in kinds for size, value in kind.defaults.items()} | given
        wanted = {HIDDEN, VOCAB, *(size for kind in kinds for size in kind.of(given).sizes)}
        for name in sorted(wanted - given.keys()):
            raise ElasticError(f"parent.{name}: missing")
        for name in sorted(given.keys() - wanted):
            raise ElasticError(f"parent.{name}: no layer has this size")
        reals = {size for kind in kinds for size in kind.reals}
        for name in (names := size_names(self.pattern, given)):
            (positive_real if name in reals else positive)(f"parent.{name}", given[name])
        return Widths({name: given[name] for name in names})

    def _check_tensors(self) -> None:
        """Raise where so many layers with so many tensors each are in no file."""
        for kind in self.kinds:
            layers = self.pattern.count(kind.symbol)
            for size in {row.each for row in kind.rows if row.each is not None}:
                rows = sum(row.each == size for row in kind.rows)
                if layers * rows * self.sizes[size] > MAX_TENSORS:
                    most = MAX_TENSORS // (layers * rows)
                    raise bad(f"parent.{size}", self.sizes[size], f"at most {most} in each of {layers} layers")

    def __getattr__(self, name: str) -> Any:
        """A size."""
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
    def recalling(self) -> frozenset[int]:
        """Layers that look at earlier tokens themselves: attention."""
        return frozenset(i for i, name in enumerate(self.types) if KINDS[name].recalls)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that its layers are of, each once, in the registry's order; its own record of each."""
        return tuple(kind.of(self.sizes) for kind in KINDS.values() if kind.symbol in self.pattern)

    def has(self, size: str) -> bool:
        """Whether it has a size that parents with the same kinds of layers may lack."""
        return size in self.sizes

    def kind(self, name: str) -> Kind:
        """Its own record of a kind: with the axes and rows that its layers have."""
        return KINDS[name].of(self.sizes)

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of its families: those that every family has, and then the others of its kinds."""
        return (*AXES, *(axis for kind in self.kinds for axis in kind.widths if axis not in AXES))

    @property
    def num_layers(self) -> int:
        return len(self.pattern)

    def size(self, name: str) -> Any:
        """A size by name."""
        return self.sizes[name]

    def axis(self, name: str, widths: Mapping[str, int] | None = None) -> BlockedPrefix:
        """The blocked prefix of an axis (depth has none: it keeps layers, not channels).

        Args:
            name: of the axis.
            widths: of a layer: an axis whose blocks are one, too, then lies in those that this layer has.
        """
        if name == HIDDEN:
            return BlockedPrefix(self.sizes[HIDDEN], 1, name)
        kind = layer_axes()[name][0].of(self.sizes)
        axis, size = kind.axis[name], self.sizes[name]
        blocks = 1 if axis.blocks is None else self.sizes[axis.blocks]
        if widths is not None and name in kind.nested:
            size, blocks = size // blocks * widths[kind.nested[name]], widths[kind.nested[name]]
        least, even = (1 if own is None else self.sizes[own] for own in (axis.least, axis.even))
        return BlockedPrefix(size, blocks, name, least, even)

    @cached_property
    def full(self) -> Subnet:
        """The member that is the parent itself."""
        return self.uniform()

    def widths(self, kind: str, choices: Mapping[str, Any]) -> Mapping[str, Any]:
        """Widths of a layer for choices of its axes, integers or expected ones.

        A choice counts the channels of the parent, whatever the layer keeps of their blocks: half of the query heads
        are those of half of the width in a layer that keeps half of the key-value heads.
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
            keep: indices of the layers that stay, all by default.
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
        own = {name: getattr(self, name) for name in ("pattern", "tied", "norm_eps", "norm")} | dict(self.sizes)
        names = _field_names(self.pattern, self.sizes)
        return {name: own[name] for name in names if name != "norm" or self.norm != OWN_WIDTH}

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
        """What a cut from one residual width to another multiplies the weights of the stream's norms by.

        The first d of D channels give ``x / sqrt(sum(x**2) / D + eps * d / D)``, an RMSNorm over d times sqrt(D / d).
        """
        return math.sqrt(source / target) if self.norm == PARENT_WIDTH else 1.0

    def laid_out_as(self, other: Parent) -> Parent:
        """The same shape with another parent's stripes, a layout of the same channels, and norms of members."""
        stripes = striped_axes()
        own = {name: size for name, size in self.sizes.items() if name not in stripes.values()}
        theirs = {size: other.sizes[size] for axis, size in stripes.items() if axis in own and size in other.sizes}
        return replace(self, sizes=own | theirs, norm=other.norm)


def cuts_heads(parent: Parent, member: Subnet) -> bool:
    """Whether a layer of a member has fewer Mamba heads than the parent."""
    return any(width < parent.sizes[MAMBA_HEADS] for width in member.widths(MAMBA_HEADS))


def regroups(parent: Parent, member: Subnet) -> bool:
    """Whether Mamba heads of a member share B and C with other heads than in the parent; no mask computes that."""
    return parent.sizes.get(SHARDS, 0) % parent.sizes[GROUPS] != 0 and cuts_heads(parent, member)


def first_difference(a: Parent, b: Parent) -> str | None:
    """The first field in which two parents differ; None where they are the same."""
    ours, theirs = a.to_json(), b.to_json()
    return next((name for name in ours | theirs if ours.get(name) != theirs.get(name)), None)


def _kinds_of(pattern: str) -> list[Kind]:
    """Kinds whose sizes a parent has."""
    return [kind for kind in KINDS.values() if kind.always or kind.symbol in pattern]


def size_names(pattern: str, sizes: Container[str]) -> list[str]:
    """Names of the sizes of a parent: those that every parent has first, then stripes, then all others."""
    kinds, stripes = _kinds_of(pattern), set(striped_axes().values())
    own = [(kind, size) for kind in kinds for size in kind.of(sizes).sizes]
    first = [size for kind, size in own if kind.always and size not in stripes]
    others = [size for kind, size in own if not kind.always and size not in stripes]
    return [HIDDEN, VOCAB, *first, *(size for _, size in own if size in stripes), *others]


def _base_sizes() -> tuple[str, ...]:
    """Names of the sizes that every parent has, but for stripes."""
    return tuple(size for size in size_names("", ()) if size not in striped_axes().values())


def _field_names(pattern: str, sizes: Container[str]) -> list[str]:
    """Fields of a parent in files."""
    names, base = size_names(pattern, sizes), _base_sizes()
    return ["pattern", *base, "tied", "norm_eps", "norm", *(name for name in names if name not in base)]


def _listed(letters: str) -> str:
    return f"{', '.join(letters[:-1])} and {letters[-1]}"


def choices_of(parent: Parent, member: Subnet, axis: str) -> tuple[int, ...]:
    """Choices of an axis that a member makes: one a layer that has it, one for the residual width; none for depth."""
    if axis == HIDDEN:
        return (member.hidden,)
    return tuple(parent.choices(layer)[axis] for layer in member.layers if axis in layer.widths)
