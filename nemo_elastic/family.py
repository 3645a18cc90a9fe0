# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent and Subnet: the shape of a Nemotron-H model and of one member cut out of it.

A `Parent` is a shape, a `Subnet` one immutable, hashable, JSON-able member of it. `a <= b` is nesting: every tensor of
a is a blocked prefix of b's. `manifest.py` holds the named collection of members, `Family`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from .checks import keep_plain
from .errors import ElasticError, bad, shown
from .prefix import BlockedPrefix

MAMBA, MLP, ATTENTION = "mamba", "mlp", "attention"
PATTERN = {"M": MAMBA, "-": MLP, "*": ATTENTION}
SYMBOL = {v: k for k, v in PATTERN.items()}

HIDDEN, FFN, MAMBA_HEADS = "hidden", "ffn", "mamba_heads"
MAMBA_HEAD_DIM, ATTENTION_HEADS, DEPTH = "mamba_head_dim", "attention_heads", "depth"
AXES = (HIDDEN, FFN, MAMBA_HEADS, MAMBA_HEAD_DIM, ATTENTION_HEADS, DEPTH)
#: axis -> (layer type it lies in, its field of `Layer`)
LAYER_AXES = {
    FFN: (MLP, "ffn"),
    MAMBA_HEADS: (MAMBA, "heads"),
    MAMBA_HEAD_DIM: (MAMBA, "head_dim"),
    ATTENTION_HEADS: (ATTENTION, "heads"),
}


#: more than any model has; a line of a damaged file must not fill the memory with layers
MAX_LAYERS = 10_000


def _positive(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad(field, value, "must be a positive integer")
    return value


@dataclass(frozen=True)
class Parent:
    """Shape of a Nemotron-H model; every size in channels, heads or tokens.

    Attributes:
        pattern: one symbol a layer: M (Mamba-2), - (squared-ReLU MLP), * (attention).
        hidden: residual width.
        vocab: rows of the embedding and of the head.
        ffn: MLP width; mamba_heads x mamba_head_dim: Mamba inner width; mamba_groups: groups that share B and C.
        state: SSM state per head channel; conv_kernel: taps of the causal convolution.
        attention_heads, kv_heads, attention_head_dim: grouped-query attention.
        tied: the head shares the embedding.
        ffn_stripes: blocks of the FFN axis, so that any tensor-parallel size that divides them has equal shares.
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

    def __post_init__(self) -> None:
        keep_plain(self)
        unknown = sorted(set(self.pattern) - set(PATTERN)) if isinstance(self.pattern, str) else [self.pattern]
        if unknown or not self.pattern:
            raise bad("parent.pattern", self.pattern, "a Nemotron-H pattern has one of M, - and * per layer")
        if len(self.pattern) > MAX_LAYERS:
            raise bad("parent.pattern", self.pattern, f"at most {MAX_LAYERS} layers")
        for f in fields(self):
            if f.type == "int":
                _positive(f"parent.{f.name}", getattr(self, f.name))
        if not isinstance(self.tied, bool):
            raise bad("parent.tied", self.tied, "true or false")
        if isinstance(self.norm_eps, bool) or not isinstance(self.norm_eps, float) or not 0 < self.norm_eps < 1:
            raise bad("parent.norm_eps", self.norm_eps, "a number between 0 and 1")
        for axis in LAYER_AXES:
            self.axis(axis)  # raises where blocks do not divide

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Layer types in order."""
        return tuple(PATTERN[c] for c in self.pattern)

    @property
    def num_layers(self) -> int:
        return len(self.pattern)

    def axis(self, name: str) -> BlockedPrefix:
        """The blocked prefix of an axis (depth has none: it keeps layers, not channels)."""
        size, blocks = {
            HIDDEN: (self.hidden, 1),
            FFN: (self.ffn, self.ffn_stripes),
            MAMBA_HEADS: (self.mamba_heads, self.mamba_groups),
            MAMBA_HEAD_DIM: (self.mamba_head_dim, 1),
            ATTENTION_HEADS: (self.attention_heads, self.kv_heads),
        }[name]
        return BlockedPrefix(size, blocks, name)

    @cached_property
    def full(self) -> Subnet:
        """The member that is the parent itself."""
        return self.uniform()

    def layer(self, index: int, **widths: int) -> Layer:
        """Layer `index` at full width, except for the `widths` given (ffn, heads, head_dim)."""
        kind = self.types[index]
        own = {field: self.axis(a).size for a, (t, field) in LAYER_AXES.items() if t == kind}
        return Layer(index, kind, **(own | widths))

    def uniform(self, keep: Iterable[int] | None = None, **widths: int) -> Subnet:
        """A member with the same width in all layers of a type.

        Args:
            keep: indices of the layers that stay, all by default.
            **widths: absolute widths by axis name (hidden, ffn, mamba_heads, mamba_head_dim, attention_heads).
        """
        layers = []
        for i in range(self.num_layers) if keep is None else sorted(keep):
            kind = self.types[i]
            own = {field: widths[a] for a, (t, field) in LAYER_AXES.items() if t == kind and a in widths}
            layers.append(self.layer(i, **own))
        return Subnet(widths.get(HIDDEN, self.hidden), tuple(layers)).validate(self)

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, data: Any, field: str = "parent") -> Parent:
        """Read what `to_json` wrote; unknown or missing fields are errors."""
        return cls(**known_fields(cls, data, field))

    def with_stripes(self, stripes: int) -> Parent:
        return replace(self, ffn_stripes=stripes)


def known_fields(cls: type, data: Any, field: str) -> dict[str, Any]:
    """`data` as keyword arguments of dataclass `cls`: a mapping without unknown and with all mandatory fields."""
    from dataclasses import MISSING
    from difflib import get_close_matches

    if not isinstance(data, Mapping):
        raise bad(field, data, f"a mapping with {', '.join(f.name for f in fields(cls))}")
    names = [f.name for f in fields(cls)]
    for key in data:
        if key not in names:
            near = get_close_matches(key, names, 1) if isinstance(key, str) else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ElasticError(f"{field}: unknown field {shown(key)}{hint} (allowed: {', '.join(names)})")
    for f in fields(cls):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in data:
            raise ElasticError(f"{field}.{f.name}: missing")
    return dict(data)


@dataclass(frozen=True)
class Layer:
    """One kept layer of a member; `index` counts in the parent. Widths that its type has not are None."""

    index: int
    type: str
    ffn: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    keep: ClassVar[int] = 1  # expected members (cost.Expected) keep a layer with a probability instead

    def __post_init__(self) -> None:
        keep_plain(self)

    def __le__(self, other: Layer) -> bool:
        return (
            self.index == other.index
            and self.type == other.type
            and all((getattr(self, f) or 0) <= (getattr(other, f) or 0) for f in ("ffn", "heads", "head_dim"))
        )

    def to_json(self) -> dict[str, Any]:
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}


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
        for i, layer in enumerate(self.layers):
            where = f"subnet.layers[{i}]"
            index = layer.index
            if isinstance(index, bool) or not isinstance(index, int) or not last < index < parent.num_layers:
                raise bad(f"{where}.index", index, f"ascending indices below {parent.num_layers}")
            if layer.type != parent.types[index]:
                raise bad(f"{where}.type", layer.type, f"layer {index} of the parent is {parent.types[index]!r}")
            own = {field: axis for axis, (kind, field) in LAYER_AXES.items() if kind == layer.type}
            for field in ("ffn", "heads", "head_dim"):
                value = getattr(layer, field)
                if field in own:
                    axis = parent.axis(own[field])
                    BlockedPrefix(axis.size, axis.blocks, f"{where}.{field}").check(value)
                elif value is not None:
                    raise bad(f"{where}.{field}", value, f"a {layer.type} layer has no {field}")
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
        return "".join(SYMBOL[layer.type] for layer in self.layers)

    def widths(self, axis: str) -> tuple[int, ...]:
        """Widths of a per-layer axis in the kept layers that have it."""
        kind, field = LAYER_AXES[axis]
        return tuple(getattr(x, field) for x in self.layers if x.type == kind)

    @property
    def is_uniform(self) -> bool:
        """Every layer of a type has the same widths: a plain `nemotron_h` config can describe it."""
        return all(len(set(self.widths(axis))) <= 1 for axis in LAYER_AXES)

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
        layers = tuple(Layer(**known_fields(Layer, x, f"{field}.layers[{i}]")) for i, x in enumerate(known["layers"]))
        return cls(known[HIDDEN], layers).validate(parent)


def intersect(a: Subnet, b: Subnet) -> Subnet:
    """The largest member nested in both: the smaller width on every axis, the layers that both keep.

    Raises:
        ElasticError: the two have no layer in common.
    """
    layers = []
    for x in a.layers:
        if (y := b.by_index.get(x.index)) is not None:
            widths = {
                f: min(getattr(x, f), getattr(y, f)) for f in ("ffn", "heads", "head_dim") if getattr(x, f) is not None
            }
            layers.append(replace(x, **widths))
    if not layers:
        raise ElasticError(f"members keep no layer in common: {a.kept} and {b.kept}")
    return Subnet(min(a.hidden, b.hidden), tuple(layers))
