# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent and Subnet: the shape of a Nemotron-H model and of one member cut out of it.

A `Parent` is a shape, a `Subnet` one immutable, hashable, JSON-able member of it. `a <= b` is nesting: every tensor of
a is a blocked prefix of b's. `manifest.py` holds the named collection of members, `Family`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from nemo_elastic.core.kinds.record import Kind, Widths
from nemo_elastic.core.kinds.registry import (
    AXES,
    DEPTH,
    HIDDEN,
    KINDS,
    OWN,
    by_symbol,
    layer_axes,
    striped_axes,
    symbols,
)
from nemo_elastic.core.prefix import BlockedPrefix
from nemo_elastic.errors import ElasticError, bad, shown
from nemo_elastic.io.values import keep_plain

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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise bad(field, value, "must be a positive number")
    return value


@dataclass(frozen=True)
class Parent:
    """Shape of a hybrid model; every size in channels, heads or tokens.

    Attributes:
        pattern: one symbol a layer: M (Mamba-2), - (squared-ReLU MLP), * (attention), E (experts), or that of a
            registered kind.
        hidden: residual width.
        vocab: rows of the embedding and of the head.
        ffn: MLP width; mamba_heads x mamba_head_dim: Mamba inner width; mamba_groups: groups that share B and C.
        state: SSM state per head channel; conv_kernel: taps of the causal convolution.
        attention_heads, kv_heads, attention_head_dim: grouped-query attention.
        tied: the head shares the embedding.
        ffn_stripes: blocks of the FFN axis, so that any tensor-parallel size that divides them has equal shares.
        more: sizes of other kinds than the first three by name; in files they stand beside the others.
    """

    pattern: str
    hidden: int
    vocab: int
    ffn: int = 1
    mamba_heads: int = 1
    mamba_head_dim: int = 1
    mamba_groups: int = 1
    state: int = 1
    conv_kernel: int = 4
    attention_heads: int = 1
    kv_heads: int = 1
    attention_head_dim: int = 1
    tied: bool = False
    norm_eps: float = 1e-5
    ffn_stripes: int = 1
    more: Mapping[str, Any] = field(default_factory=Widths)

    def __post_init__(self) -> None:
        keep_plain(self)
        unknown = sorted(set(self.pattern) - set(symbols())) if isinstance(self.pattern, str) else [self.pattern]
        if unknown or not self.pattern:
            raise bad("parent.pattern", self.pattern, f"a pattern has one of {_listed(symbols())} per layer")
        if len(self.pattern) > MAX_LAYERS:
            raise bad("parent.pattern", self.pattern, f"at most {MAX_LAYERS} layers")
        for f in fields(self):
            if f.type == "int":
                positive(f"parent.{f.name}", getattr(self, f.name))
        if not isinstance(self.tied, bool):
            raise bad("parent.tied", self.tied, "true or false")
        if isinstance(self.norm_eps, bool) or not isinstance(self.norm_eps, float) or not 0 < self.norm_eps < 1:
            raise bad("parent.norm_eps", self.norm_eps, "a number between 0 and 1")
        others = [kind for kind in self.kinds if kind.name not in OWN]
        defaults = {size: value for kind in others for size, value in kind.defaults.items()}
        object.__setattr__(self, "more", Widths(defaults | dict(self.more)))
        wanted = {size for kind in others for size in kind.sizes}
        if wanted != set(self.more):
            name = min(wanted ^ set(self.more))
            if name in wanted:
                raise ElasticError(f"parent.{name}: missing")
            raise ElasticError(f"parent.{name}: no layer has it")
        reals = {size for kind in others for size in kind.reals}
        for name, value in self.more.items():
            (positive_real if name in reals else positive)(f"parent.{name}", value)
        self._check_tensors()
        for axis in self.axes:
            if axis != DEPTH:
                self.axis(axis)  # raises where blocks do not divide

    def _check_tensors(self) -> None:
        """Raise where so many layers with so many tensors each are in no file."""
        for kind in self.kinds:
            layers = self.pattern.count(kind.symbol)
            for size in {row.each for row in kind.rows if row.each is not None}:
                rows = sum(row.each == size for row in kind.rows)
                if layers * rows * self.size(size) > MAX_TENSORS:
                    most = MAX_TENSORS // (layers * rows)
                    raise bad(f"parent.{size}", self.size(size), f"at most {most} in each of {layers} layers")

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Names of the layers' kinds in order."""
        named = {kind.symbol: name for name, kind in KINDS.items()}
        return tuple(named[c] for c in self.pattern)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that its layers are of, each once, in the registry's order; its own record of each."""
        return tuple(kind.of(self.more) for kind in KINDS.values() if kind.symbol in self.pattern)

    def has(self, size: str) -> bool:
        """Whether it has a size that parents with the same kinds of layers may lack."""
        return size in self.more

    def kind(self, name: str) -> Kind:
        """Its own record of a kind: with the axes and rows that its layers have."""
        return KINDS[name].of(self.more)

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of its families: Nemotron-H's first three kinds', and those of the others that it has."""
        return (*AXES, *(axis for kind in self.kinds if kind.name not in OWN for axis in kind.widths))

    @property
    def num_layers(self) -> int:
        return len(self.pattern)

    def size(self, name: str) -> int:
        """A size by name, of a registered kind, too."""
        return self.more[name] if name in self.more else getattr(self, name)

    def axis(self, name: str) -> BlockedPrefix:
        """The blocked prefix of an axis (depth has none: it keeps layers, not channels)."""
        if name == HIDDEN:
            return BlockedPrefix(self.hidden, 1, name)
        axis = layer_axes()[name][1]
        blocks = 1 if axis.blocks is None else self.size(axis.blocks)
        return BlockedPrefix(self.size(name), blocks, name, 1 if axis.least is None else self.size(axis.least))

    @cached_property
    def full(self) -> Subnet:
        """The member that is the parent itself."""
        return self.uniform()

    def layer(self, index: int, **widths: int) -> Layer:
        """Layer `index` at full width, except for the `widths` given by axis name."""
        kind = self.kind(self.types[index])
        for axis in widths:
            if axis not in kind.widths:
                raise bad("axis", axis, f"a {kind.name} layer has {', '.join(kind.widths)}")
        return Layer(index, kind.name, {axis: widths.get(axis, self.size(axis)) for axis in kind.widths})

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
        return Subnet(widths.get(HIDDEN, self.hidden), layers).validate(self)

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"} | dict(self.more)

    @classmethod
    def from_json(cls, data: Any, field: str = "parent") -> Parent:
        """Read what `to_json` wrote; unknown or missing fields are errors."""
        pattern = data.get("pattern") if isinstance(data, Mapping) else None
        found = [by_symbol(c) for c in sorted(set(pattern))] if isinstance(pattern, str) else []
        own = {size for kind in found if kind is not None and kind.name not in OWN for size in kind.sizes}
        more = {name: data[name] for name in own if name in data}
        rest = {k: v for k, v in data.items() if k not in own} if isinstance(data, Mapping) else data
        known_names([f.name for f in fields(cls) if f.name != "more"], rest, field)
        return cls(**known_fields(cls, rest, field), more=Widths(more))

    def with_stripes(self, ffn: int, **more: int) -> Parent:
        """The same shape with so many stripes of the FFN; of other axes by the names of their sizes."""
        return replace(self, ffn_stripes=ffn, more=dict(self.more) | more)

    def striped_as(self, other: Parent) -> Parent:
        """The same shape with the stripes of another parent: a layout of the same channels."""
        own = {size: other.more[size] for size in striped_axes().values() if size in self.more and size in other.more}
        return self.with_stripes(other.ffn_stripes, **own)


def _listed(letters: str) -> str:
    return f"{', '.join(letters[:-1])} and {letters[-1]}"


def known_names(names: Sequence[str], data: Any, field: str) -> dict[str, Any]:
    """`data` as a dictionary: a mapping without other keys than `names`."""
    from difflib import get_close_matches

    if not isinstance(data, Mapping):
        raise bad(field, data, f"a mapping with {', '.join(names)}")
    for key in data:
        if key not in names:
            near = get_close_matches(key, names, 1) if isinstance(key, str) else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ElasticError(f"{field}: unknown field {shown(key)}{hint} (allowed: {', '.join(names)})")
    return dict(data)


def known_fields(cls: type, data: Any, field: str) -> dict[str, Any]:
    """`data` as keyword arguments of dataclass `cls`: a mapping without unknown and with all mandatory fields."""
    from dataclasses import MISSING

    known = known_names([f.name for f in fields(cls)], data, field)
    for f in fields(cls):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in data:
            raise ElasticError(f"{field}.{f.name}: missing")
    return known


@dataclass(frozen=True)
class Layer:
    """One kept layer of a member.

    Attributes:
        index: in the parent.
        type: name of its kind.
        widths: axis -> width, of every axis of its kind.
    """

    index: int
    type: str
    widths: Mapping[str, int]
    keep: ClassVar[int] = 1  # expected members (cost.Expected) keep a layer with a probability instead

    def __post_init__(self) -> None:
        keep_plain(self)
        object.__setattr__(self, "widths", Widths(self.widths))

    def __le__(self, other: Layer) -> bool:
        return (
            self.index == other.index
            and self.type == other.type
            and all(width <= other.widths[axis] for axis, width in self.widths.items())
        )

    def to_json(self) -> dict[str, Any]:
        own = {axis.field: self.widths[axis.name] for axis in KINDS[self.type].axes if axis.name in self.widths}
        return {"index": self.index, "type": self.type, **own}

    @classmethod
    def from_json(cls, data: Any, field: str) -> Layer:
        """Read what `to_json` wrote; whether it fits a parent is for `Subnet.validate` to say."""
        if not isinstance(data, Mapping):
            raise bad(field, data, "a mapping with index, type and the widths of its kind")
        for key in ("index", "type"):
            if key not in data:
                raise ElasticError(f"{field}.{key}: missing")
        kind = KINDS.get(data["type"]) if isinstance(data["type"], str) else None
        if kind is None:
            raise bad(f"{field}.type", data["type"], f"one of {', '.join(KINDS)}")
        named = {axis.field: axis.name for axis in kind.axes}
        known_names(("index", "type", *named), data, field)
        for key, axis in named.items():
            if key not in data and axis not in kind.lacking:
                raise ElasticError(f"{field}.{key}: missing")
        return cls(data["index"], kind.name, {axis: data[key] for key, axis in named.items() if key in data})


@dataclass(frozen=True)
class Subnet:
    """One member: the residual width and the kept layers with their widths, in order."""

    hidden: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        keep_plain(self)

    def validate(self, parent: Parent) -> Subnet:
        """Return self if it is a member of `parent`; raise `ElasticError` with the field otherwise."""
        parent.axis(HIDDEN).check(self.hidden)
        if not self.layers:
            raise ElasticError("subnet.layers: [] is not allowed; at least one layer must stay")
        last = -1
        right: set[tuple[str, int]] = set()  # most layers have the widths of others
        for i, layer in enumerate(self.layers):
            where = f"subnet.layers[{i}]"
            index = layer.index
            if isinstance(index, bool) or not isinstance(index, int) or not last < index < parent.num_layers:
                raise bad(f"{where}.index", index, f"ascending indices below {parent.num_layers}")
            if layer.type != parent.types[index]:
                raise bad(f"{where}.type", layer.type, f"layer {index} of the parent is {parent.types[index]!r}")
            kind = parent.kind(layer.type)
            if set(layer.widths) != set(kind.widths):
                raise bad(f"{where}.widths", dict(layer.widths), f"a {kind.name} layer has {', '.join(kind.widths)}")
            for axis in kind.axes:
                width = layer.widths[axis.name]
                if type(width) is not int or (axis.name, width) not in right:
                    prefix = replace(parent.axis(axis.name), name=f"{where}.{axis.field}")
                    right.add((axis.name, prefix.check(width)))
            last = index
        return self

    def __le__(self, other: Subnet) -> bool:
        """Nested: this member can be cut out of `other`."""
        larger = other.by_index
        return self.hidden <= other.hidden and all(x.index in larger and x <= larger[x.index] for x in self.layers)

    @cached_property
    def by_index(self) -> dict[int, Layer]:
        return {layer.index: layer for layer in self.layers}

    @property
    def kept(self) -> tuple[int, ...]:
        """Parent indices of the kept layers."""
        return tuple(layer.index for layer in self.layers)

    @property
    def pattern(self) -> str:
        return "".join(KINDS[layer.type].symbol for layer in self.layers)

    def widths(self, axis: str) -> tuple[int, ...]:
        """Widths of a per-layer axis in the kept layers that have it."""
        return tuple(layer.widths[axis] for layer in self.layers if axis in layer.widths)

    @property
    def is_uniform(self) -> bool:
        """Every layer of a kind has the same widths: a plain `nemotron_h` config can describe it."""
        return len({(layer.type, layer.widths) for layer in self.layers}) == len({x.type for x in self.layers})

    def to_json(self) -> dict[str, Any]:
        return {HIDDEN: self.hidden, "layers": [layer.to_json() for layer in self.layers]}

    @classmethod
    def from_json(cls, data: Any, parent: Parent, field: str = "subnet") -> Subnet:
        """Read and validate a member of `parent`."""
        known = known_fields(cls, data, field)
        if not isinstance(known["layers"], list):
            raise bad(f"{field}.layers", known["layers"], "a list of layers")
        if len(known["layers"]) > parent.num_layers:
            raise bad(f"{field}.layers", len(known["layers"]), f"at most the parent's {parent.num_layers} layers")
        layers = tuple(Layer.from_json(x, f"{field}.layers[{i}]") for i, x in enumerate(known["layers"]))
        return cls(known[HIDDEN], layers).validate(parent)


def largest(widths: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The largest width of every axis among layers."""
    out: dict[str, int] = {}
    for own in widths:
        out |= {axis: max(width, out.get(axis, width)) for axis, width in own.items()}
    return out


def intersect(a: Subnet, b: Subnet) -> Subnet:
    """The largest member nested in both: the smaller width on every axis, the layers that both keep.

    Raises:
        ElasticError: the two have no layer in common.
    """
    layers = []
    for x in a.layers:
        if (y := b.by_index.get(x.index)) is not None:
            layers.append(replace(x, widths={axis: min(width, y.widths[axis]) for axis, width in x.widths.items()}))
    if not layers:
        raise ElasticError(f"members keep no layer in common: {a.kept} and {b.kept}")
    return Subnet(min(a.hidden, b.hidden), tuple(layers))
