# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a served family is expected to say, by our own runtime."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np

from nemo_elastic.runtime import load_family
from nemo_elastic.serving.calibration import read_calibration
from tests.serving.calibrated import signals_of

from .families import MEMBERS, TEXT
from .server import NEW

LARGE, _, SMALL = MEMBERS
PAIR = f"{SMALL}>{LARGE}"
COST = 0.4  # cost setting of `auto`, where a request has none
#: of several lengths, the longest above a chunk of Mamba's scan
PROMPTS = ["The first", " of the Work and any", TEXT[:80], TEXT[300:700], TEXT[1000:1900], "def f(", "licence: 42-25"]


class Expected:
    """Greedy tokens of our own runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.family = folder, load_family(folder)
        self.ids = [self.family.tokenizer.encode(p) for p in PROMPTS]
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
