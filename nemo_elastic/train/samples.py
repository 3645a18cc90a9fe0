# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which budgets a micro-batch samples: a pure function of (seed, step, micro-batch), the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nemo_elastic.core.budget import inclusion
from nemo_elastic.nn.gates import Choice


@dataclass(frozen=True)
class Sample:
    """A budget that a micro-batch trains.

    Attributes:
        share: its weight in the micro-batch's loss.
        router_loss: its budget loss; None where the router has no part in it.
        candidate: number of the candidate that runs; None where the budget has its one member.
    """

    budget: int
    share: float
    choice: Choice
    router_loss: torch.Tensor | None = None
    candidate: int | None = None


class BudgetSampler:
    """Samples budgets with given probabilities.

    There is no state: a resumed run samples what the uninterrupted one would have, and ranks exchange nothing.
    Every (stage, step, micro-batch) seeds a generator of its own, so samples are independent across micro-batches, and
    across stages, whose steps are both counted from 0.

    Args:
        weights: of the budgets, from the largest to the smallest; they need not add up to 1.
        count: different budgets per micro-batch, at most the number of positive weights.
    """

    def __init__(self, weights: Sequence[float], seed: int, stage: int = 1, count: int = 1) -> None:
        self.seed, self.stage, self.count = seed, stage, count
        self.probabilities = np.asarray(weights, dtype=np.float64)
        self.probabilities = self.probabilities / self.probabilities.sum()
        self.inclusion = np.asarray(inclusion(self.probabilities.tolist(), count))

    def samples(self, step: int, micro_batch: int) -> list[int]:
        """Indices of the budgets that this micro-batch trains, ascending, each once.

        Systematic sampling (Madow, 1949): one random offset and steps of 1 along the sums of the inclusion
        probabilities, which it meets exactly. Budgets of neighbouring size rarely come together, so micro-batches cost
        about the same.
        """
        generator = np.random.default_rng([self.seed, 0x0E1A571C + self.stage - 1, step, micro_batch])
        certain = self.inclusion >= 1
        free = self.count - int(certain.sum())
        sums = np.cumsum(np.where(certain, 0.0, self.inclusion))
        chosen = np.flatnonzero(certain)
        if free:
            points = (generator.random() + np.arange(free)) / free
            chosen = np.union1d(chosen, np.searchsorted(sums / sums[-1], points, side="right"))
        return chosen.tolist()

    def share(self, budget: int) -> float:
        """Weight of a sampled budget in its micro-batch's loss; those of one micro-batch add up to 1.

        1/count, so that the loss is the mean; less for a budget whose sampling weight exceeds that (it is in every
        micro-batch), so that every budget has its sampling weight over many micro-batches.
        """
        return float(self.probabilities[budget] / self.inclusion[budget])

    def turn(self, step: int, micro_batch: int, live: int) -> int:
        """Which of a budget's `live` candidates a micro-batch trains: each once in as many micro-batches or steps.

        The order is another one every `live` steps, so that none always follows the same.
        """
        generator = np.random.default_rng([self.seed, 0x50F7_0000 + self.stage - 1, live, step // live])
        return int(generator.permutation(live)[(step + micro_batch) % live])
