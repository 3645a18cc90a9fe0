# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which budget a micro-batch samples: a pure function of (seed, step, micro-batch), the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nemo_elastic.nn.gates import Choice


@dataclass(frozen=True)
class Sample:
    """A budget that a micro-batch trains.

    Attributes:
        router_loss: its budget loss; None where the router has no part in it.
    """

    budget: int
    choice: Choice
    router_loss: torch.Tensor | None = None


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

    def budget(self, step: int, micro_batch: int) -> int:
        """Index of the budget that this micro-batch trains."""
        generator = np.random.default_rng([self.seed, 0x0E1A571C + self.stage - 1, step, micro_batch])
        return int(np.searchsorted(self.sums, generator.random(), side="right"))
