# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of the members that a search has measured, each once, and the best chain of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.search.chains import best_chain
from nemo_elastic.search.space import Code, Space

#: added to a loss before chains are compared: below it, in nats per token, differences are noise
NOISE = 0.02


@dataclass(frozen=True)
class Trial:
    """One measured candidate.

    Attributes:
        number: counts from 1.
        budget: name of the budget that it was tried for.
        origin: start, even, fullest or varied.
        cost: in the budget's unit; loss: what the callable returned, infinite for NaN.
        member: the measured shape.
    """

    number: int
    budget: str
    origin: str
    cost: float
    loss: float
    member: Subnet


@dataclass
class Measured:
    """All measurements so far.

    Attributes:
        space, budgets, loss, candidates, progress: of `finder.search`; the budgets without the parent's.
        known: loss of each measured member; codes: of the same, in the same order.
        trace: the measurements in order.
    """

    space: Space
    budgets: Sequence[Budget]
    loss: Callable[[Subnet], float]
    candidates: int
    progress: Callable[[int, int, Trial], None] | None = None
    known: dict[Subnet, float] = field(default_factory=dict)
    codes: list[Code] = field(default_factory=list)
    trace: list[Trial] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.candidates - len(self.trace)

    def measure(self, code: Sequence[int] | np.ndarray, budget: Budget, origin: str) -> bool:
        """Measure a code for a budget; False where it is known, or no candidate is left."""
        member = self.space.decode(code)
        if member in self.known or not self.left:
            return False
        loss = float(self.loss(member))
        self.known[member] = loss = math.inf if math.isnan(loss) else loss
        self.codes.append(tuple(int(i) for i in code))
        cost = self.space.price(budget)(member)
        self.trace.append(Trial(len(self.trace) + 1, budget.name, origin, cost, loss, member))
        if self.progress is not None:
            self.progress(len(self.trace), self.candidates, self.trace[-1])
        return True

    def scores(self, members: Sequence[Subnet]) -> np.ndarray:
        """Logarithms of losses, which chains sum up, float64 [n]; NaN of members that are not known.

        Rounded, so that the last bits of losses, which differ with the layout of ranks, choose no member.
        """
        losses = np.array([self.known.get(member, math.nan) for member in members])
        return np.round(np.log(np.maximum(losses, 0) + NOISE), 4)

    def relations(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far codes [n, slots] miss each budget, and which is nested in which.

        Returns:
            float64 [budgets, n], above 0 where too large; bool [n, n], entry [i, j]: j is nested in i.
        """
        prices = [self.space.price(budget) for budget in self.budgets]
        misses = np.stack([price.miss(price.codes(codes)) for price in prices])
        return misses, np.stack([self.space.nested(codes, code) for code in codes])

    def best_chain(self) -> list[Code] | None:
        """One code per budget, each nested in the one before, with the smallest product of losses, if there is any."""
        if not self.codes:
            return None
        misses, inside = self.relations(np.array(self.codes))
        chain = best_chain(np.where(misses <= 0, self.scores([*self.known]), math.inf), inside)
        return None if chain is None else [self.codes[at] for at in chain]
