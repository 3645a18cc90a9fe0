# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The registered kinds. Register another kind before a folder or block that uses it is read."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_elastic.core.kinds import attention, mamba, mlp, moe
from nemo_elastic.core.kinds.record import Axis, Kind
from nemo_elastic.errors import bad

#: name -> kind, Nemotron-H's first; of several variants (`Kind.variant`) the one with every axis
KINDS: dict[str, Kind] = {kind.name: kind for kind in (mlp.KIND, mamba.KIND, attention.KIND, moe.KIND)}

HIDDEN, DEPTH = "hidden", "depth"
#: axes of every family, in the order of files and of the router's noise
AXES = (HIDDEN, *(axis for kind in KINDS.values() if kind.always for axis in kind.variant(()).widths), DEPTH)


def register(kind: Kind) -> Kind:
    """Add a kind to layer patterns, `elastic:` blocks, folders and the layout table (`core.layout.table`).

    Its forward pass is registered in `nn.forward.MIXERS` under the same name.
    """
    for other in KINDS.values():
        if kind.symbol == other.symbol:
            raise bad("kind.symbol", kind.symbol, f"taken by {other.name}")
        if taken := set(kind.sizes) & set(other.sizes):
            raise bad("kind.axes", min(taken), f"taken by {other.name}")
    if kind.name in KINDS or set(kind.widths) & {HIDDEN, DEPTH}:
        raise bad("kind.name", kind.name, "a name that no other kind has, and no axis called hidden or depth")
    KINDS[kind.name] = kind
    _LAYER_AXES.update(_axes_of(kind))
    return kind


def symbols() -> str:
    """The letters of all kinds in a layer pattern."""
    return "".join(kind.symbol for kind in KINDS.values())


def _axes_of(kind: Kind) -> dict[str, tuple[Kind, Axis]]:
    return {axis.name: (kind, axis) for axis in kind.axes}


_LAYER_AXES = {name: both for kind in KINDS.values() for name, both in _axes_of(kind).items()}


def layer_axes() -> Mapping[str, tuple[Kind, Axis]]:
    """Axis -> the kind that has it, and the axis's record."""
    return _LAYER_AXES


def per_layer_axes() -> tuple[str, ...]:
    """Axes that may have one choice per layer in an `elastic:` block."""
    return tuple(name for name, (_, axis) in _LAYER_AXES.items() if axis.per_layer)


def striped_axes() -> Mapping[str, str]:
    """Axis -> the parent size giving its number of stripes, for axes whose stripes an `elastic:` block chooses."""
    return {name: axis.blocks for name, (_, axis) in _LAYER_AXES.items() if axis.stripes and axis.blocks is not None}


def axes_with_stripes() -> tuple[str, ...]:
    """Axes whose stripes an `elastic:` block may set: those of `striped_axes` that tensors have."""
    return tuple(name for name in striped_axes() if name in _LAYER_AXES[name][0].channels)


def all_axes() -> tuple[str, ...]:
    """Every axis that a block may name; axes of optional and registered kinds come last."""
    return (*AXES, *(axis for axis in layer_axes() if axis not in AXES))
