# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which budget a micro-batch samples: a pure function of (seed, step, micro-batch), the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from nemo_elastic.nn.gates import Choice


@dataclass(frozen=True)
class Sample:
    """A budget that a micro-batch trains.

    Attributes:
        router_loss: its budget loss; None where the router has no part in it.
        candidate: number of the candidate that runs; None where the budget has its one member.
    """

    budget: int
    choice: Choice
    router_loss: torch.Tensor | None = None
    candidate: int | None = None


class BudgetSampler:
    """Samples budgets with given probabilities.

    Nothing depends on what was drawn before: a resumed run samples what the uninterrupted one would have, and ranks
    exchange nothing. Every (stage, step, micro-batch) seeds a generator of its own, so samples are independent across
    micro-batches, and across stages, whose steps are both counted from 0.

    Args:
        weights: of the budgets, from the largest to the smallest; they need not add up to 1.
    """

    def __init__(self, weights: Sequence[float], seed: int, stage: int = 1) -> None:
        self.seed, self.stage = seed, stage
        sums = np.cumsum(np.asarray(weights, dtype=np.float64))
        self.sums = sums / sums[-1]
        self._counted = (0, 0, [0] * len(self.sums))  # micro-batches of a step, step, and what `counts` gave for it

    def budget(self, step: int, micro_batch: int) -> int:
        """Index of the budget that this micro-batch trains."""
        generator = np.random.default_rng([self.seed, 0x0E1A571C + self.stage - 1, step, micro_batch])
        return int(np.searchsorted(self.sums, generator.random(), side="right"))

    def counts(self, step: int, micro_batches: int) -> list[int]:
        """How many micro-batches each budget has had before a step, if every step has as many."""
        of, done, counts = self._counted
        if of != micro_batches or done > step:
            done, counts = 0, [0] * len(self.sums)
        for at in product(range(done, step), range(micro_batches)):
            counts[self.budget(*at)] += 1
        self._counted = micro_batches, step, counts
        return list(counts)

    def turn(self, step: int, micro_batch: int, micro_batches: int) -> int:
        """How many micro-batches the budget of this one has had before it."""
        budget = self.budget(step, micro_batch)
        in_step = sum(self.budget(step, earlier) == budget for earlier in range(micro_batch))
        return self.counts(step, micro_batches)[budget] + in_step
