# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates over a curriculum: the model's and the router's."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Rates"]


@dataclass(frozen=True)
class Rates:
    """Linear warm-up and cosine decay over all stages; the router warms up, holds, and stops when frozen.

    Attributes:
        total_steps: steps of all stages together.
        warmup_steps: linear warm-up at the very start.
        min_ratio: rate at the end, as a share of the peak.
        start_step: steps done by earlier stages.
        freeze_step: step at which the router is frozen (counted over the curriculum).
        router_warmup: warm-up of the router in steps.
    """

    total_steps: int
    warmup_steps: int = 60
    min_ratio: float = 0.1
    start_step: int = 0
    freeze_step: int = 0
    router_warmup: int = 20

    def model(self, step: int) -> float:
        """Share of the model's peak rate at a step of this stage."""
        step += self.start_step
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def router(self, step: int) -> float:
        """Share of the router's rate at a step of this stage."""
        step += self.start_step
        return 0.0 if step >= self.freeze_step else min(1.0, (step + 1) / max(1, self.router_warmup))
