# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layer and Subnet: one member of a family, immutable, hashable, JSON-able.

`a <= b` is nesting: every tensor of a is a blocked prefix of the one in b.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

from nemo_elastic.core.kinds.record import Kind, Widths
from nemo_elastic.core.kinds.registry import HIDDEN, KINDS
from nemo_elastic.core.prefix import BlockedPrefix
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.fields import known_fields, known_names
from nemo_elastic.io.values import keep_plain


@dataclass(frozen=True)
class Layer:
    """One kept layer of a member.

    Attributes:
        index: in the parent.
        type: name of its kind.
        widths: axis -> width, for every axis of its kind.
    """

    index: int
    type: str
    widths: Mapping[str, int]
    keep: ClassVar[int] = 1  # a `cost.ExpectedLayer` has a probability instead

    def __post_init__(self) -> None:
        keep_plain(self)
        object.__setattr__(self, "widths", Widths(self.widths))

    def __le__(self, other: Layer) -> bool:
        if (self.index, self.type, self.widths.keys()) != (other.index, other.type, other.widths.keys()):
            return False
        theirs = KINDS[self.type].recount(other.widths, other.widths, self.widths)
        return all(width <= theirs[axis] for axis, width in self.widths.items())

    def to_json(self) -> dict[str, Any]:
        widths = {axis.field: self.widths[axis.name] for axis in KINDS[self.type].axes if axis.name in self.widths}
        return {"index": self.index, "type": self.type, **widths}

    @classmethod
    def from_json(cls, data: Any, field: str) -> Layer:
        """Read what `to_json` wrote; `Subnet.validate` checks it against a parent."""
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
            if key not in data and axis in kind.variant(()).widths:
                raise ElasticError(f"{field}.{key}: missing")
        return cls(data["index"], kind.name, {axis: data[key] for key, axis in named.items() if key in data})


class Shape(Protocol):
    """Interface of `Parent` for checks of members."""

    @property
    def num_layers(self) -> int: ...

    @cached_property
    def types(self) -> tuple[str, ...]: ...

    def kind(self, name: str) -> Kind: ...

    def axis(self, name: str, widths: Mapping[str, int] | None = None) -> BlockedPrefix: ...


@dataclass(frozen=True)
class Subnet:
    """One member: the residual width and the kept layers with their widths, in order."""

    hidden: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        keep_plain(self)

    def validate(self, parent: Shape) -> Subnet:
        """Return self if it is a member of `parent`; raise `ElasticError` with the field otherwise."""
        parent.axis(HIDDEN).check(self.hidden)
        if not self.layers:
            raise ElasticError("subnet.layers: [] is not allowed; at least one layer must stay")
        last = -1
        right: set[tuple[str, Mapping[str, int]]] = set()  # most layers have equal widths
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
            whole = all(type(width) is int for width in layer.widths.values())  # other values may be unhashable
            if not whole or (layer.type, layer.widths) not in right:
                for axis in sorted(kind.axes, key=lambda axis: axis.name in kind.nested):  # blocks come first
                    prefix = parent.axis(axis.name, layer.widths)
                    replace(prefix, name=f"{where}.{axis.field}").check(layer.widths[axis.name])
                right.add((layer.type, layer.widths))
            last = index
        return self

    def __le__(self, other: Subnet) -> bool:
        """Whether this member is nested in `other`, so that it can be cut out of it."""
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
        """Whether all layers of a kind have the same widths, as a plain `nemotron_h` config needs."""
        return len({(layer.type, layer.widths) for layer in self.layers}) == len({x.type for x in self.layers})

    def to_json(self) -> dict[str, Any]:
        return {HIDDEN: self.hidden, "layers": [layer.to_json() for layer in self.layers]}

    @classmethod
    def from_json(cls, data: Any, parent: Shape, field: str = "subnet") -> Subnet:
        """Read and validate a member of `parent`."""
        known = known_fields(cls, data, field)
        if not isinstance(known["layers"], list):
            raise bad(f"{field}.layers", known["layers"], "a list of layers")
        if len(known["layers"]) > parent.num_layers:
            raise bad(f"{field}.layers", len(known["layers"]), f"at most the parent's {parent.num_layers} layers")
        layers = tuple(Layer.from_json(x, f"{field}.layers[{i}]") for i, x in enumerate(known["layers"]))
        return cls(known[HIDDEN], layers).validate(parent)


def largest(layers: Iterable[tuple[str, Mapping[str, int]]]) -> dict[str, int]:
    """The smallest widths that contain all layers: sizes of a parent made from them.

    Args:
        layers: kind and widths of each.
    """
    widths_of: dict[str, list[Mapping[str, int]]] = {}
    for kind, widths in layers:
        widths_of.setdefault(kind, []).append(widths)
    return {axis: n for kind, several in widths_of.items() for axis, n in KINDS[kind].mix(max, several).items()}


def intersect(a: Subnet, b: Subnet) -> Subnet:
    """The largest member nested in both: the smaller width on every axis, the layers that both keep."""
    layers = []
    for x in a.layers:
        if (y := b.by_index.get(x.index)) is not None:
            layers.append(replace(x, widths=KINDS[x.type].mix(min, (x.widths, y.widths))))
    if not layers:
        raise ElasticError(f"members keep no layer in common: {a.kept} and {b.kept}")
    return Subnet(min(a.hidden, b.hidden), tuple(layers))
