# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How many seconds a demo still takes, while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class TimeLeft:
    """How long all phases will take, from what they take on two quiet cores and how fast this machine was so far.

    Attributes:
        expected: phase -> seconds, in order.
        spent: phase -> seconds that it took.
    """

    expected: Mapping[str, float]
    spent: dict[str, float] = field(default_factory=dict)
    _running: str | None = None
    _began: float = 0.0

    def start(self, phase: str) -> None:
        """A phase begins."""
        self._running, self._began = phase, time.monotonic()

    def end(self, phase: str) -> float:
        """A phase ends; gives its seconds."""
        self.spent[phase], self._running = time.monotonic() - self._began, None
        return self.spent[phase]

    @property
    def pace(self) -> float:
        """Seconds that this machine took for each that was expected; 1 before anything is known."""
        known = sum(self.expected[phase] for phase in self.spent)
        return sum(self.spent.values()) / known if known else 1.0

    @property
    def seconds(self) -> float:
        """Until the end of all phases that have not ended; one that takes longer than expected ends at any moment."""
        left = self.pace * sum(taken for phase, taken in self.expected.items() if phase not in self.spent)
        if self._running is None:
            return left
        return left - min(time.monotonic() - self._began, self.pace * self.expected[self._running])

    def place(self, phase: str) -> str:
        """`4 of 9`."""
        return f"{[*self.expected].index(phase) + 1} of {len(self.expected)}"

    def after(self, phase: str) -> str | None:
        """The phase behind another; None behind the last."""
        names = list(self.expected)
        return next(iter(names[names.index(phase) + 1 :]), None)

    def in_words(self) -> str:
        """`about 4 min left`."""
        left = self.seconds
        return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
