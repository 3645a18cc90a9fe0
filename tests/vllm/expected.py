# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a served family is expected to say, by our own runtime, and a list of what was seen."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np

from nemo_elastic.runtime import load_family
from nemo_elastic.serving.arguments import MOST_OF_BODY
from nemo_elastic.serving.calibration import read_calibration
from tests.serving.calibrated import signals_of

from .cases import ROOT
from .served import MEMBERS
from .server import NEW

CLIENTS, LENGTH = 32, 512
LARGE, _, SMALL = MEMBERS
PAIR = f"{SMALL}>{LARGE}"
COST = 0.4  # cost setting of `auto`, where a request has none
MOST = MOST_OF_BODY  # bytes of a body


def prompts() -> list[str]:
    """Of several lengths, the longest above a chunk of Mamba's scan."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return ["The first", " of the Work and any", text[:80], text[300:700], text[1000:1900], "def f(", "licence: 42-25"]


class Expected:
    """Greedy tokens of our own runtime."""

    def __init__(self, folder: Path) -> None:
        self.family = load_family(folder)
        self.ids = [self.family.tokenizer.encode(p) for p in prompts()]
        self.tokens = {m: self.family.select(m).generate(self.ids, NEW, ()) for m in self.family.names}
        calibration = read_calibration(folder, {m: self.family.select(m).parameters for m in MEMBERS})
        assert calibration is not None
        self.calibration = calibration
        self.signals_ns = np.array([signals_of(self.family.select(SMALL), ids) for ids in self.ids])

    def ending(self) -> int:
        """A token that the small member says in the middle of many answers; it is then taken to end its thinking."""
        said = collections.Counter()
        for row in self.tokens[SMALL]:
            said.update({i for i in row[4:16] if i not in row[:4]})
        return said.most_common(1)[0][0]

    def auto(self, cost: float) -> tuple[list[str], list[list[int]]]:
        """Who answers each prompt, and what it says."""
        chosen = [self.calibration.members[at] for at in self.calibration.choose(self.signals_ns, cost)]
        return chosen, [self.tokens[member][i] for i, member in enumerate(chosen)]

    def pair(self, i: int, end: int | None, budget: int | None) -> list[int]:
        """What the small member begins and the large one ends."""
        thought = self.tokens[SMALL][i][: budget or NEW]
        if end in thought:
            thought = thought[: thought.index(end) + 1]
        if len(thought) == NEW:
            return thought
        return thought + self.family.select(LARGE).generate(self.ids[i] + thought, NEW - len(thought), ())


class Checks:
    """What was seen, and what was wrong."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.faults: list[str] = []

    def tell(self, what: str, ok: bool, seen: object, more: str = "") -> None:
        """Note what was seen; `more` is for the screen and not for the table."""
        self.rows.append((what, str(seen)))
        print(f"{'ok   ' if ok else 'WRONG'} {what}: {seen} {more}", flush=True)
        if not ok:
            self.faults.append(f"{what}: {seen} {more}")

    def table(self) -> str:
        """In Markdown."""
        rows = [f"| {what.replace('>', '&gt;')} | {seen.replace('>', '&gt;')} |" for what, seen in self.rows]
        return "\n".join(["| Checked | Seen |", "|---|---:|", *rows]) + "\n"

    def equal(self, what: str, got: list[list[int]], expected: list[list[int]]) -> None:
        pairs = [(a, b) for x, y in zip(got, expected, strict=True) for a, b in zip(x, y, strict=False)]
        right, number = sum(a == b for a, b in pairs), sum(map(len, expected))
        self.tell(what, got == expected, f"{right} of {number}")


def figures_in_a_line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name}: {figure:.0f}" for name, figure in figures.items())
