# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks that share out a sequence (context parallelism), in megatron-core's zig-zag order.

Of 2c equal pieces of a sequence the rank r of c has piece r and piece 2c - 1 - r between embedding and head. Layers
that look at one position at a time know nothing of it. Those that look along the sequence exchange positions for
heads: inside of them a rank has the whole sequence, in order, and its share of the heads (as megatron-core's
`MambaContextParallel` does; of attention DeepSpeed-Ulysses, arXiv 2309.14509). So documents end where they end, and a
member may have any heads that the ranks can share.

Before the embedding and after the head every rank has whole rows of tokens, labels and weights, and the loss of all.

In shapes: c ranks that share the sequence, s its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import all_to_all

from nemo_elastic.errors import bad


def context_group(module: Any) -> dist.ProcessGroup | None:
    """The ranks that share a module's sequences; None where one rank has them whole."""
    group = module.pg_collection.cp
    return group if group is not None and group.size() > 1 else None


def own_positions(whole: torch.Tensor, group: dist.ProcessGroup | None, dim: int = 1) -> torch.Tensor:
    """This rank's s / c positions of something that has all of them along `dim`."""
    if group is None:
        return whole
    pieces, rank = 2 * group.size(), group.rank()
    if whole.shape[dim] % pieces:
        raise bad("sequence length", whole.shape[dim], f"a multiple of 2 x context_parallel_size, {pieces}")
    parts = whole.chunk(pieces, dim)
    return torch.cat([parts[rank], parts[pieces - 1 - rank]], dim)


def to_heads(x_sbo: torch.Tensor, parts: Sequence[int], group: dist.ProcessGroup | None) -> torch.Tensor:
    """Own positions [s/c, b, o] of all channels to all positions [s, b, o/c], in order, of the rank's own channels.

    Channels are in parts that lie side by side, such as [z | x | B | C | dt]: each is dealt out in equal runs.
    """
    if group is None:
        return x_sbo
    c = group.size()
    by_rank = torch.cat([part.unflatten(-1, (c, -1)) for part in x_sbo.split(list(parts), -1)], -1)
    of_ranks = all_to_all(group, by_rank.movedim(-2, 0).contiguous()).unflatten(1, (2, -1))  # [c, 2, s/2c, b, o/c]
    return torch.cat([of_ranks[:, 0], of_ranks[:, 1].flip(0)]).flatten(0, 1)


def to_positions(x_sbi: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Inverse of `to_heads` for a single part: all positions of a rank's channels [s, b, i/c] to [s/c, b, i]."""
    if group is None:
        return x_sbi
    c = group.size()
    pieces = x_sbi.unflatten(0, (2 * c, -1))
    by_rank = torch.stack([pieces[:c], pieces[c:].flip(0)], 1).flatten(1, 2)
    return all_to_all(group, by_rank.contiguous()).movedim(0, -2).flatten(-2)


def own_share(t: torch.Tensor, parts: Sequence[int], group: dist.ProcessGroup | None) -> torch.Tensor:
    """The rank's run of each part of dimension 0: what goes with the channels that `to_heads` gives it."""
    if group is None:
        return t
    shares = [part.chunk(group.size())[group.rank()] for part in t.split(list(parts))]
    return shares[0] if len(shares) == 1 else torch.cat(shares)


def of_all(share: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """The sum over the ranks of a sequence, as each of them has it.

    Each has it, and data parallelism takes the mean of their gradients as of ranks that see other data: what goes
    back is that many times as much.
    """
    return share if group is None else _OfAll.apply(share, group)  # pyright: ignore[reportReturnType]


class _OfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.ranks, total = group.size(), share.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * ctx.ranks, None
