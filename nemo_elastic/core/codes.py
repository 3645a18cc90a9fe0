# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as integer vectors of a length that the parent fixes, to store them as tensors in distributed checkpoints.

A code is `[-n, CRC-32 of n axes' names, hidden, ...]`, then for each layer of the parent its widths along those axes,
padded with zeros to the largest number of axes of a kind, and 1 if the layer is kept (0 and zeros if not). An axis
that is not listed was not cut.
"""

from __future__ import annotations

import zlib

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.record import Kind
from nemo_elastic.errors import bad

__all__ = ["decode", "encode", "width"]


def width(parent: Parent) -> int:
    """Length of a code."""
    names = _names(parent)
    return len(names) + 2 + (_most(parent, names) + 1) * parent.num_layers


def encode(parent: Parent, member: Subnet) -> list[int]:
    """The code of a member."""
    names = _names(parent)
    out, most = [-len(names), *map(_number, names), member.hidden], _most(parent, names)
    for i in range(parent.num_layers):
        layer = member.by_index.get(i)
        widths = [] if layer is None else [layer.widths[axis] for axis in _axes(parent.kind(layer.type), names)]
        out += widths + [0] * (most - len(widths)) + [int(layer is not None)]
    return out


def decode(parent: Parent, code: list[int]) -> Subnet:
    """Inverse of `encode`, validated."""
    count = max(0, -code[0])
    numbers = {_number(axis): axis for axis in parent.axes}
    for number in code[1 : 1 + count]:
        if number not in numbers:
            raise bad(
                "checkpoint.elastic.codes",
                number,
                "an axis of this parent, or a later version of nemo-elastic, which may have it",
            )
    names = tuple(numbers[number] for number in code[1 : 1 + count])
    rest, most = code[count + 1 :], _most(parent, names)
    if len(rest) != 1 + (most + 1) * parent.num_layers:
        raise bad("checkpoint.elastic.codes", len(code), f"members of {parent.num_layers} layers")
    layers: list[Layer] = []
    for i, kind in enumerate(parent.types):
        *widths, kept = rest[1 + (most + 1) * i :][: most + 1]
        if kept:
            layers.append(parent.layer(i, **dict(zip(_axes(parent.kind(kind), names), widths, strict=False))))
    return Subnet(rest[0], tuple(layers)).validate(parent)


def _number(axis: str) -> int:
    return zlib.crc32(axis.encode())


def _names(parent: Parent) -> tuple[str, ...]:
    return tuple(axis for kind in parent.kinds for axis in kind.widths)


def _axes(kind: Kind, names: tuple[str, ...]) -> tuple[str, ...]:
    """Axes of a kind in the order of `names`."""
    return tuple(axis for axis in names if axis in kind.widths)


def _most(parent: Parent, names: tuple[str, ...]) -> int:
    return max(len(_axes(kind, names)) for kind in parent.kinds)
