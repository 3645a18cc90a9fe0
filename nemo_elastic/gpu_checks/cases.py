# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the kernels are compared on: a Mamba layer on one rank, whole, as a slice of another, or gated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.kernels import MambaWidths


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        parent: heads, channels of a head, groups, state.
        member: heads, channels of a head: what is run, as a slice or by gates.
        gated: the whole layer runs, and gates leave the member (some of them soft).
        bf16: activations and convolution in bfloat16, as in training.
        length, chunk, batch: positions, positions of a chunk of the scan, sequences.
    """

    title: str
    parent: tuple[int, int, int, int]
    member: tuple[int, int]
    gated: bool = False
    bf16: bool = False
    length: int = 24
    chunk: int = 16
    batch: int = 1

    @cached_property
    def shape(self) -> Parent:
        heads, head_dim, groups, state = self.parent
        return Parent("M", 32, 64, mamba_heads=heads, mamba_head_dim=head_dim, mamba_groups=groups, state=state)

    @cached_property
    def subnet(self) -> Subnet:
        return self.shape.uniform(mamba_heads=self.member[0], mamba_head_dim=self.member[1])

    @property
    def widths(self) -> MambaWidths:
        """Of the tensors that the kernels get."""
        return MambaWidths(*(self.parent[:2] if self.gated else self.member), *self.parent[2:])


#: Small, for every program of a kernel is interpreted: a head, a chunk and a sequence are some of them each.
CASES = (
    Case("whole", (8, 16, 2, 16), (8, 16), batch=2),
    Case("heads 8 to 6", (8, 16, 2, 16), (6, 16), batch=2),
    Case("heads 16 to 14", (16, 16, 2, 16), (14, 16)),
    Case("whole, head_dim 80", (8, 80, 2, 16), (8, 80)),
    Case("head_dim 80 to 64", (8, 80, 2, 16), (8, 64)),
    Case("heads 8 to 6, head_dim 80 to 72", (8, 80, 2, 16), (6, 72)),
    Case("head_dim 16 to 13", (8, 16, 2, 16), (8, 13)),
    Case("heads 4 to 2, state 128", (4, 16, 1, 128), (2, 16), length=37),
    Case("gated, heads 8 to 6, head_dim 16 to 12", (8, 16, 2, 16), (6, 12), gated=True),
    Case("gated, heads 6 to 4, head_dim 16 to 12", (6, 16, 2, 16), (4, 12), gated=True),
    Case("whole", (8, 16, 2, 16), (8, 16), bf16=True),
    Case("heads 8 to 6", (8, 16, 2, 16), (6, 16), bf16=True, batch=2),
    Case("head_dim 80 to 64", (8, 80, 2, 16), (8, 64), bf16=True),
    Case("heads 8 to 4, head_dim 16 to 13", (8, 16, 1, 6), (4, 13), bf16=True),
    Case("gated, heads 8 to 6", (8, 16, 2, 16), (6, 16), bf16=True, gated=True),
    Case("gated, heads 6 to 4", (6, 16, 2, 16), (4, 16), bf16=True, gated=True),
)

#: As in training of the 12B: a layer, and a rank's share at tensor-parallel size 4, where 28 heads take two calls.
SPEED = (
    Case("128 heads", (128, 80, 8, 128), (128, 80), bf16=True, length=4096, chunk=128),
    Case("96 heads", (128, 80, 8, 128), (96, 80), bf16=True, length=4096, chunk=128),
    Case("80 heads", (128, 80, 8, 128), (80, 80), bf16=True, length=4096, chunk=128),
    Case("32 heads of a rank", (32, 80, 2, 128), (32, 80), bf16=True, length=4096, chunk=128),
    Case("28 of them", (32, 80, 2, 128), (28, 80), bf16=True, length=4096, chunk=128),
)
