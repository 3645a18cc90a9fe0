# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as integers of a shape fixed by the parent, so that a distributed checkpoint holds them as a tensor."""

from __future__ import annotations

from typing import Any

from nemo_elastic.family import Layer, Parent, Subnet

__all__ = ["decode", "encode", "width"]


def width(parent: Parent) -> int:
    """Integers of a member of `parent`."""
    return 1 + 3 * parent.num_layers


def encode(parent: Parent, member: Subnet) -> list[int]:
    """[hidden, then per parent layer (ffn or heads, head_dim, 1)]; a dropped layer is (0, 0, 0)."""
    out = [member.hidden]
    for i in range(parent.num_layers):
        layer = member.by_index.get(i)
        out += [0, 0, 0] if layer is None else [layer.ffn or layer.heads or 0, layer.head_dim or 0, 1]
    return out


def decode(parent: Parent, code: list[int]) -> Subnet:
    """Inverse of `encode`, validated."""
    layers: list[Layer] = []
    for i, kind in enumerate(parent.types):
        width, head_dim, kept = code[1 + 3 * i : 4 + 3 * i]
        if kept:
            own: dict[str, Any] = {"ffn": width} if kind == "mlp" else {"heads": width}
            layers.append(Layer(i, kind, **own, **({"head_dim": head_dim} if kind == "mamba" else {})))
    return Subnet(code[0], tuple(layers)).validate(parent)
