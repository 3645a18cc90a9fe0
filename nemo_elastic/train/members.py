# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the elastic model saves with its weights: the router and the members found so far.

Members are encoded as integers of a shape fixed by the parent, so they travel in the distributed checkpoint with the
weights: a resumed run, the next stage and the slicer all read the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from nemo_elastic.core.codes import decode, encode, width
from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.router import Router


class _Read(NamedTuple):
    """The buffers' content on the host, and what it was read from."""

    buffers: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]
    frozen: bool
    members: list[Subnet]


class Members(nn.Module):
    """Router and found members of a family, as a submodule `elastic` of the model.

    Attributes:
        router: the trained router, or None.
        codes: int64 [budgets, 1 + 3 * layers], see `encode`; zeros until shapes were found.
        drop_order: int64 [layers], in which smaller shapes lose layers; without a router only, which has it otherwise.
        frozen: int64 [1]: 1 once the shapes are fixed and every step is sliced.
        parent_norm: int64 [1]: 1 where members' norms divide by the parent's width, see `Parent.norm`.
        ranking: uint8 [32], digest of the ranking that sorted the weights; zeros until they are ranked.
    """

    router: Router | None
    codes: torch.Tensor
    frozen: torch.Tensor
    parent_norm: torch.Tensor
    ranking: torch.Tensor
    drop_order: torch.Tensor

    def __init__(self, parent: Parent, budgets: int, router: Router | None = None) -> None:
        super().__init__()
        self.parent, self.router = parent, router
        self.register_buffer("codes", torch.zeros(budgets, width(parent), dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("parent_norm", torch.tensor([int(parent.norm == PARENT_WIDTH)]))
        self.register_buffer("ranking", torch.zeros(32, dtype=torch.uint8))
        if router is None:
            self.register_buffer("drop_order", torch.zeros(parent.num_layers, dtype=torch.int64))
        self._read: _Read | None = None

    @property
    def known(self) -> bool:
        """Whether shapes were found."""
        return bool(self._host().members)

    @property
    def is_frozen(self) -> bool:
        return self._host().frozen

    def put_ranking(self, digest: str) -> None:
        """Store which ranking sorted the weights; all ranks call it and have rank 0's afterwards."""
        _store(self.ranking, torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))

    def put(self, members: Sequence[Subnet], frozen: bool) -> None:
        """Store one member per budget; where there are several ranks, all call it and have rank 0's afterwards.

        Ranks find the same ones, but for the last bit of a loss or a logit: one bit is enough for another member.
        """
        rows = [encode(self.parent, m) for m in members]
        _store(self.codes, torch.tensor(rows, dtype=torch.int64))
        self.frozen.fill_(int(frozen))

    def get(self) -> list[Subnet]:
        """The members stored last, the same objects until others are stored; empty before shapes were found."""
        return self._host().members

    def _host(self) -> _Read:
        """What the buffers say, read again only when one has changed.

        Every micro-batch asks; to read a buffer would make the host wait for a GPU each time. A loaded checkpoint,
        like `put`, writes into the buffers, and moving the module replaces them: both show without reading them.
        """
        buffers = (self.codes, self.frozen)
        versions = tuple(b._version for b in buffers)
        read = self._read
        same = read is not None and all(mine is theirs for mine, theirs in zip(read.buffers, buffers, strict=True))
        if read is None or not same or read.versions != versions:
            rows = self.codes.tolist()
            members = [decode(self.parent, row) for row in rows] if any(map(any, rows)) else []
            read = self._read = _Read(buffers, versions, bool(self.frozen.item()), members)
        return read


def _store(buffer: torch.Tensor, value: torch.Tensor) -> None:
    buffer.copy_(value)
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(buffer, 0)
