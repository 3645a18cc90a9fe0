# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as integers of a shape fixed by the parent, so that a distributed checkpoint holds them as a tensor."""

from __future__ import annotations

from nemo_elastic.core.family import Layer, Parent, Subnet

__all__ = ["decode", "encode", "width"]


def _widths(parent: Parent) -> int:
    """Widths of a layer: two, as Nemotron-H has, or as many as the kind with most."""
    return max(2, *(len(kind.axes) for kind in parent.kinds))


def width(parent: Parent) -> int:
    """Integers of a member of `parent`."""
    return 1 + (_widths(parent) + 1) * parent.num_layers


def encode(parent: Parent, member: Subnet) -> list[int]:
    """[hidden, then per parent layer (its widths in order, zeros where it has fewer, 1)]; zeros for a dropped one."""
    out, most = [member.hidden], _widths(parent)
    for i in range(parent.num_layers):
        layer = member.by_index.get(i)
        own = [] if layer is None else [layer.widths[axis] for axis in parent.kind(layer.type).widths]
        out += own + [0] * (most - len(own)) + [int(layer is not None)]
    return out


def decode(parent: Parent, code: list[int]) -> Subnet:
    """Inverse of `encode`, validated."""
    layers: list[Layer] = []
    most = _widths(parent)
    for i, kind in enumerate(parent.types):
        *own, kept = code[1 + (most + 1) * i :][: most + 1]
        if kept:
            layers.append(Layer(i, kind, dict(zip(parent.kind(kind).widths, own, strict=False))))
    return Subnet(code[0], tuple(layers)).validate(parent)
