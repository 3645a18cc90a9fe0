# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which budget a micro-batch trains: a pure function of (seed, step, micro-batch), the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BudgetSampler:
    """Draws budgets with given probabilities.

    There is no state: a resumed run draws what the uninterrupted one would have drawn, and no rank has to be told.
    Every (stage, step, micro-batch) seeds a generator of its own, so draws are independent across micro-batches, and
    across stages, whose steps are both counted from 0.
    """

    def __init__(self, probabilities: Sequence[float], seed: int, stage: int = 1) -> None:
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.probabilities = self.probabilities / self.probabilities.sum()
        self.seed, self.stage = seed, stage

    def draw(self, step: int, micro_batch: int) -> int:
        """Index of the budget that this micro-batch trains."""
        generator = np.random.default_rng([self.seed, 0x0E1A571C + self.stage - 1, step, micro_batch])
        return int(generator.choice(len(self.probabilities), p=self.probabilities))
