# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How long a training takes, by the planner's estimate of a step."""

from __future__ import annotations

from dataclasses import dataclass

from .layouts import Layout

__all__ = ["Duration", "duration"]


@dataclass(frozen=True)
class Duration:
    """A training of so many steps.

    Attributes:
        steps: optimizer steps.
        hours: estimated; validation, saves and starts are not in them.
        gpu_hours: those of all GPUs together.
    """

    steps: int
    hours: float
    gpu_hours: float

    def __str__(self) -> str:
        return f"{self.steps:,} steps in about {self.hours:,.3g} hours, {self.gpu_hours:,.0f} GPU-hours"


def duration(layout: Layout, steps: int) -> Duration:
    """The time that a layout takes for so many steps."""
    hours = layout.seconds * steps / 3600
    return Duration(steps, hours, hours * layout.tensor * layout.pipeline * layout.data)
