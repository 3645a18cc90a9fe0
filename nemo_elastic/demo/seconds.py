# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the seconds of a demo go: what is left of them while it runs, and a table of a run that has ended.

`python -m nemo_elastic.demo.seconds runs/demo` prints that table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nemo_elastic.errors import bad
from nemo_elastic.report.run_record import load_run


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


def table(run: Path) -> str:
    """Wall time of every phase as a Markdown table, and how the phases that train divide theirs.

    The clock of a training phase's steps starts with training: up to the end of the first step goes what a stage does
    before it (rank, sort, search shapes); around the steps are building the model, loading and saving checkpoints.

    Args:
        run: a demo's folder.

    Raises:
        ElasticError: it has no `metrics.json` with the seconds of its phases.
    """
    loaded = load_run(run)
    results = loaded.results
    if results is None or results.total is None:
        raise bad("run", str(run), "the folder of a finished demo, with the seconds of its phases in metrics.json")
    steps = {phase.label: [line["seconds"] for line in phase.steps] for phase in loaded.phases}
    lines = [
        "| phase | s | share | up to the first step | further steps | around them |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, taken in [*results.seconds.items(), ("total", results.total)]:
        parts = [""] * 3
        if steps.get(name):
            first, last = steps[name][0], steps[name][-1]
            parts = [f"{part:.1f}" for part in (first, last - first, taken - last)]
        lines.append(f"| {name} | {taken:.1f} | {taken / results.total:.0%} | {' | '.join(parts)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    print(table(Path(sys.argv[1])), end="")
