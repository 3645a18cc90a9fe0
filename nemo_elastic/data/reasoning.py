# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Worked reasoning problems as text: question, steps, answer.

The questions come from reasoning-gym; the steps are derived from what its generators tell about a question, and every
answer is checked by the generator's own scoring. A question is held out by the hash of its own text, so no seed, no
order and no amount of generated problems can bring a held-out question into training.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ElasticError, bad
from .tasks import TASKS

#: A problem of at most this many tokens is `short`: it fits the context of the parent and of stage 1.
SHORT_TOKENS = 128
#: Longer problems are dropped: they would not fit the context of stage 2 either.
LONG_TOKENS = 500
#: Share of all possible questions that is held out, in thousandths.
HELD_OUT_PER_MILLE = 100

_ANSWER = re.compile(r"^(?:steps:)? ?answer: (.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """One problem with its way to the answer.

    Attributes:
        task: Name of the reasoning-gym task.
        level: Difficulty, from 1.
        question: The question in our short form, e.g. `12+34-5`.
        steps: The lines between question and answer.
        answer: What has to stand after `answer:`.
        tokens: Length of `text` under the tokenizer of the data folder; 0 while unknown.
    """

    task: str
    level: int
    question: str
    steps: tuple[str, ...]
    answer: str
    tokens: int = 0

    @property
    def prompt(self) -> str:
        """What a model gets: up to and including `steps:`; its tokens are a prefix of those of `text`."""
        return f"question: {self.question}\nsteps:"

    @property
    def completion(self) -> str:
        """What a model should write after `prompt`."""
        return " " + "\n".join((*self.steps, f"answer: {self.answer}\n"))

    @property
    def text(self) -> str:
        """The whole problem, as it is trained on."""
        return self.prompt + self.completion

    @property
    def length(self) -> str:
        """`short` or `long`, by `tokens`."""
        return "short" if self.tokens <= SHORT_TOKENS else "long"

    @property
    def held_out(self) -> bool:
        """Whether this question is kept away from training; a property of its text alone."""
        rank = int.from_bytes(hashlib.sha256(f"{self.task} {self.question}".encode()).digest()[:8], "big")
        return rank < HELD_OUT_PER_MILLE * 2**64 // 1000

    def is_solved_by(self, generated: str) -> bool:
        """Whether a model's text (with or without the prompt) ends in the right answer."""
        return parse_answer(generated) == self.answer

    def with_tokens(self, tokens: int) -> Problem:
        """The same problem, its length known."""
        return replace(self, tokens=tokens)


def parse_answer(text: str) -> str | None:
    """The first complete `answer: …` line of a text, or None if there is none."""
    found = _ANSWER.search(text)
    return found.group(1).strip() if found else None


def generate(task: str, level: int, seed: int) -> Iterator[Problem]:
    """Endless problems of one task and level, in an order fixed by the seed.

    Args:
        task: One of `TASKS`.
        level: 1 (easiest) to the number of that task's levels.
        seed: Any integer.

    Yields:
        Problems of both splits, see `Problem.held_out`; their answers have been checked.

    Raises:
        ElasticError: For an unknown task or level, or when reasoning-gym disagrees with an answer.
    """
    if task not in TASKS:
        raise bad("task", task, f"use one of {', '.join(TASKS)}")
    levels = TASKS[task].levels
    if not 1 <= level <= len(levels):
        raise bad("level", level, f"{task} has levels 1 to {len(levels)}")
    import reasoning_gym as gym  # takes more than a second: only when problems are made

    # reasoning-gym draws question i from seed + i, so neighbouring seeds would share nearly all their questions.
    start = int.from_bytes(hashlib.sha256(f"{seed} {task} {level}".encode()).digest()[:6], "big")
    dataset = gym.create_dataset(task, seed=start, size=2**31, **levels[level - 1])
    index = 0
    while True:
        entry: dict[str, Any] = dataset[index]
        index += 1
        question, steps, answer = TASKS[task].solve(entry["metadata"])
        if dataset.score_answer(TASKS[task].to_gym(answer), entry) != 1.0:
            raise ElasticError(f"reasoning-gym {gym.__version__}: {task} does not accept our answer {answer!r}")
        yield Problem(task, level, question, tuple(steps), answer)


def mixture(weights: Mapping[tuple[str, int], float], seed: int) -> Iterator[Problem]:
    """Endless problems drawn from several tasks and levels.

    Args:
        weights: (task, level) → how often, in any unit.
        seed: Fixes the draws and the problems.

    Yields:
        Problems, see `generate`.
    """
    sources = {key: generate(*key, seed=seed) for key in weights}
    draw = random.Random(seed)
    keys, shares = list(weights), list(weights.values())
    while True:
        yield next(sources[draw.choices(keys, shares)[0]])


def short_weights() -> dict[tuple[str, int], float]:
    """The mixture for short contexts: the easiest level twice as often as the harder ones together."""
    return {(name, level): share for name in TASKS for level, share in ((1, 6.0), (2, 2.0), (3, 1.0))}


def long_weights() -> dict[tuple[str, int], float]:
    """The mixture for long contexts: every level from the third on, alike."""
    return {(name, level): 1.0 for name, task in TASKS.items() for level in range(3, len(task.levels) + 1)}
