# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Chunks of tokens that ranks hold in shares: gathered one chunk at a time, so that no rank ever holds them all.

Every rank has a run of the tokens, in the order of ranks (sequence parallelism), and a chunk is the same few rows of
every rank's run. Without a group one rank has all tokens, and nothing is copied.

Shape suffixes: t token of the whole, o token of a rank's own run, c token of a chunk, d hidden channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class TokenShards:
    """How tokens are shared out.

    Attributes:
        group: ranks that have a run of equal length each; None where every rank has all tokens.
    """

    group: dist.ProcessGroup | None = None

    @property
    def world(self) -> int:
        """Runs that make up the whole."""
        return 1 if self.group is None else self.group.size()

    def size(self, chunk_tokens: int, own: int) -> int:
        """Rows of a rank's own run in a chunk of about `chunk_tokens`."""
        return max(1, min(chunk_tokens // self.world, own))

    def chunks(self, chunk_tokens: int, own: int) -> Iterator[slice]:
        """The rows of each chunk in a rank's own run of length `own`."""
        size = self.size(chunk_tokens, own)
        for start in range(0, own, size):
            yield slice(start, min(start + size, own))

    def pick(self, whole_t: torch.Tensor, at: slice) -> torch.Tensor:
        """A chunk's entries of something that every rank has of all tokens."""
        return whole_t[at] if self.group is None else whole_t.view(self.world, -1)[:, at].flatten()

    def put(self, whole_t: torch.Tensor, at: slice, values_c: torch.Tensor) -> None:
        """Set a chunk's entries."""
        whole_t.view(self.world, -1)[:, at] = values_c.view(self.world, -1)

    def room(self, own_od: torch.Tensor, chunk_tokens: int) -> torch.Tensor | None:
        """A buffer for `gather`."""
        rows = self.world * self.size(chunk_tokens, len(own_od))
        return None if self.group is None else own_od.new_empty(rows, own_od.shape[1])

    def gather(self, own_od: torch.Tensor, at: slice, room_cd: torch.Tensor | None) -> torch.Tensor:
        """The chunk's rows of all ranks, in `room_cd`; a view of this rank's where it has them all."""
        if self.group is None or room_cd is None:
            return own_od[at]
        out_cd = room_cd[: self.world * (at.stop - at.start)]
        dist.all_gather_into_tensor(out_cd, own_od[at].contiguous(), group=self.group)
        return out_cd

    def scatter(self, chunk_cd: torch.Tensor, own_od: torch.Tensor, at: slice) -> None:
        """Sum over ranks; each puts its own rows where they belong. For ranks that share tokens out."""
        dist.reduce_scatter_tensor(own_od[at], chunk_cd, group=self.group)
