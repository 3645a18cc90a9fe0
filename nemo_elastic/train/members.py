# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the elastic model saves with its weights: the router, the members found so far, and their candidates.

Members are encoded as integers of a shape fixed by the parent, so they travel in the distributed checkpoint with the
weights: a resumed run, the next stage and the slicer all read the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from nemo_elastic.core.codes import decode, encode, width
from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.router import Router


class Candidate(NamedTuple):
    """A shape that is trained in turn with others of its budget.

    Attributes:
        number: of the budget's candidates as the search left them, from 0.
        loss: when it was compared last, nats per token; NaN before.
    """

    number: int
    member: Subnet
    loss: float = math.nan


class _Read(NamedTuple):
    """The buffers' content on the host, and what it was read from."""

    buffers: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]
    frozen: bool
    members: list[Subnet]
    candidates: list[list[Candidate]]
    cuts: int


class Members(nn.Module):
    """Router and found members of a family, as a submodule `elastic` of the model.

    Attributes:
        router: the trained router, or None.
        codes: int64 [budgets, 1 + 3 * layers], see `encode`; zeros until shapes were found.
        drop_order: int64 [layers], in which smaller shapes lose layers; without a router only, which has it otherwise.
        frozen: int64 [1]: 1 once the shapes are fixed and every step is sliced.
        parent_norm: int64 [1]: 1 where members' norms divide by the parent's width, see `Parent.norm`.
        live: int64 [budgets, keep, 1 + 3 * layers]: codes of candidates by their numbers, zeros where there is none.
        losses: int64 [budgets, keep]: bits of float64, of the candidates when they were compared last, NaN before.
            Floats would be rounded to bf16 with the weights.
        cuts: int64 [1]: comparisons that were made.

    Args:
        keep: candidates of a budget, at most; 0 where there are the members alone.
    """

    router: Router | None
    codes: torch.Tensor
    frozen: torch.Tensor
    parent_norm: torch.Tensor
    drop_order: torch.Tensor
    live: torch.Tensor
    losses: torch.Tensor
    cuts: torch.Tensor

    def __init__(self, parent: Parent, budgets: int, router: Router | None = None, keep: int = 0) -> None:
        super().__init__()
        self.parent, self.keep = parent, keep
        self.router = router
        self.register_buffer("codes", torch.zeros(budgets, width(parent), dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("parent_norm", torch.tensor([int(parent.norm == PARENT_WIDTH)]))
        if router is None:
            self.register_buffer("drop_order", torch.zeros(parent.num_layers, dtype=torch.int64))
        if keep:
            self.register_buffer("live", torch.zeros(budgets, keep, width(parent), dtype=torch.int64))
            self.register_buffer("losses", _bits(torch.full((budgets, keep), math.nan)))
            self.register_buffer("cuts", torch.zeros(1, dtype=torch.int64))
        self._read: _Read | None = None

    @property
    def known(self) -> bool:
        """Whether shapes were found."""
        return bool(self._host().members)

    @property
    def is_frozen(self) -> bool:
        return self._host().frozen

    @property
    def cut(self) -> int:
        """Comparisons of candidates that were made."""
        return self._host().cuts

    def put(self, members: Sequence[Subnet], frozen: bool) -> None:
        """Store one member per budget; where there are several ranks, all call it and have rank 0's afterwards.

        Ranks find the same ones, but for the last bit of a loss or a logit: one bit is enough for another member.
        """
        rows = [encode(self.parent, m) for m in members]
        _store(self.codes, torch.tensor(rows, dtype=torch.int64))
        self.frozen.fill_(int(frozen))

    def put_candidates(self, candidates: Sequence[Sequence[Candidate]], cuts: int) -> None:
        """Store the candidates of every budget that are left after so many cuts, on all ranks as `put` does."""
        codes, losses = torch.zeros_like(self.live, device="cpu"), torch.full(self.losses.shape, math.nan).double()
        for budget, live in enumerate(candidates):
            for candidate in live:
                codes[budget, candidate.number] = torch.tensor(encode(self.parent, candidate.member))
                losses[budget, candidate.number] = candidate.loss
        _store(self.live, codes)
        _store(self.losses, _bits(losses))
        self.cuts.fill_(cuts)

    def candidates(self, budget: int) -> list[Candidate]:
        """What a budget trains in turn until shapes are fixed, by number; empty where it has its one member."""
        read = self._host()
        return read.candidates[budget] if read.candidates and not read.frozen else []

    def get(self) -> list[Subnet]:
        """The members stored last, the same objects until others are stored; empty before shapes were found."""
        return self._host().members

    def _host(self) -> _Read:
        """What the buffers say, read again only when one has changed.

        Every micro-batch asks; to read a buffer would make the host wait for a GPU each time. A loaded checkpoint,
        like `put`, writes into the buffers, and moving the module replaces them: both show without reading them.
        """
        buffers = (self.codes, self.frozen, *((self.live, self.losses, self.cuts) if self.keep else ()))
        versions = tuple(b._version for b in buffers)
        read = self._read
        same = read is not None and all(mine is theirs for mine, theirs in zip(read.buffers, buffers, strict=True))
        if read is None or not same or read.versions != versions:
            rows = self.codes.tolist()
            members = [decode(self.parent, row) for row in rows] if any(map(any, rows)) else []
            cuts, frozen = int(self.cuts) if self.keep else 0, bool(self.frozen.item())
            read = self._read = _Read(buffers, versions, frozen, members, self._candidates(), cuts)
        return read

    def _candidates(self) -> list[list[Candidate]]:
        if not self.keep:
            return []
        codes, losses = self.live.tolist(), self.losses.view(torch.float64).tolist()
        return [
            [Candidate(i, decode(self.parent, row), loss[i]) for i, row in enumerate(rows) if any(row)]
            for rows, loss in zip(codes, losses, strict=True)
        ]


def _bits(losses: torch.Tensor) -> torch.Tensor:
    return losses.double().view(torch.int64)


def _store(buffer: torch.Tensor, value: torch.Tensor) -> None:
    buffer.copy_(value)
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(buffer, 0)
