# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels of a Mamba-2 layer ask of its widths on one tensor-parallel rank.

causal_conv1d moves 16 bytes at a time. It takes x, B and C in rows of channels and asserts that 8 divides their number
and the distance of two rows; where a row begins it does not ask, and fails with a misaligned address. So a width is
one of three: refused; run in parts, each with rows of its own (`nn.mixer`); or run by mamba_ssm's one fused call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS

from .errors import bad

#: channels that causal_conv1d moves at once
VECTOR = 8


@dataclass(frozen=True)
class MambaWidths:
    """A Mamba layer on one rank: `heads` of `head_dim` channels, B and C of `groups` x `state`."""

    heads: int
    head_dim: int
    groups: int
    state: int

    @property
    def inner(self) -> int:
        """Channels of x, of z, and of the scan's output."""
        return self.heads * self.head_dim

    @property
    def convolved(self) -> int:
        """Channels of [x | B | C]."""
        return self.inner + 2 * self.groups * self.state

    @property
    def projection(self) -> int:
        """Channels of [z | x | B | C | dt], the input projection's output."""
        return self.inner + self.convolved + self.heads

    def split(self, zxbcdt: Any) -> tuple[Any, Any, Any]:
        """z, [x | B | C] and dt of a tensor whose last dimension is `projection`; views."""
        return zxbcdt.split([self.inner, self.convolved, self.heads], -1)

    def scanned(self, xbc: Any) -> tuple[Any, Any, Any]:
        """x [..., heads, head_dim], B and C [..., groups, state] of what was convolved; views."""
        maps = self.groups * self.state
        x, b, c = xbc.split([self.inner, maps, maps], -1)
        by_group = (self.groups, self.state)
        return x.unflatten(-1, (self.heads, self.head_dim)), b.unflatten(-1, by_group), c.unflatten(-1, by_group)

    @property
    def runs(self) -> bool:
        """The kernels take it at all."""
        return self.convolved % VECTOR == 0

    @property
    def fused(self) -> bool:
        """The fused call takes it: [x | B | C] is aligned where it lies in the projection, and so is its gradient."""
        return self.runs and self.inner % VECTOR == 0 and self.projection % VECTOR == 0


def chunk_for(state: int) -> int:
    """Positions per chunk of the scan in torch that are fastest on a CPU: 16, 32 or 64 by state channels.

    Measured forward and backward (docs/tables/bench_chunk.md). A chunk of q positions costs q x q per head for what
    mixes inside it, and p x n once for the state that it hands on, so more state wants longer chunks.
    """
    return 16 if state <= 16 else 32 if state <= 32 else 64


#: names of settings, as `check_widths` says them
TENSOR, SHAPE, BLOCK = "tensor_model_parallel_size", "mamba_head_dim", "axes"


def check_widths(
    parent: Parent, axes: Mapping[str, AxisConfig], tensor: int, names: Mapping[str, str] | None = None
) -> None:
    """Raise where the kernels refuse a Mamba width among the choices, which meet in every combination.

    Args:
        parent: shape of the parent.
        axes: `ElasticConfig.resolve_axes(parent)`.
        tensor: tensor-parallel size, which divides the groups.
        names: how `TENSOR`, `SHAPE` and `BLOCK` are spelt where the error is read.

    Raises:
        ElasticError: of the tensor-parallel size where one rank would do, else of the choice or the parent's shape.
    """
    if not any(MAMBA_HEADS in kind.widths for kind in parent.kinds):
        return
    heads, dims = (_choices(parent, axes, name) for name in (MAMBA_HEADS, MAMBA_HEAD_DIM))
    refused = _refused(parent, heads, dims, tensor)
    if refused is None:
        return
    block = f"{BLOCK}." if names is None else f"{names[BLOCK]}."
    if tensor > 1 and _refused(parent, heads, dims, 1) is None:
        field, value = (TENSOR if names is None else names[TENSOR]), tensor
    elif refused.head_dim != parent.mamba_head_dim:
        field, value = block + MAMBA_HEAD_DIM, refused.head_dim
    elif refused.heads * tensor != parent.mamba_heads:
        field, value = block + MAMBA_HEADS, refused.heads * tensor
    else:
        field, value = (SHAPE if names is None else names[SHAPE]), refused.head_dim
    raise bad(
        field,
        value,
        f"heads x head_dim + 2 x groups x state of every choice must be a multiple of {VECTOR} on a rank "
        f"(causal_conv1d's kernel); {refused.heads * tensor} heads of {refused.head_dim} give {refused.convolved}",
    )


def _choices(parent: Parent, axes: Mapping[str, AxisConfig], name: str) -> Sequence[int]:
    return axes[name].choices if name in axes else (parent.axis(name).size,)


def _refused(parent: Parent, heads: Sequence[int], dims: Sequence[int], tensor: int) -> MambaWidths | None:
    widths = (MambaWidths(h // tensor, p, parent.mamba_groups // tensor, parent.state) for p in dims for h in heads)
    return next((w for w in widths if not w.runs), None)
