# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Worked reasoning problems as text: question, steps, answer.

The questions come from reasoning-gym; the steps are derived from what its generators tell about a question, and every
answer is checked by the generator's scoring. A question is held out by the hash of its text, so no seed, no
order and no amount of generated problems can bring a held-out question into training.

A solver sees only a generator's metadata and returns (question, steps, answer). The written forms are short, because
the tiny models that learn them see a few hundred thousand tokens of them: digits are one token each, words one or two.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.fields import TEXT, Between

from .sources import rank_of

#: A problem of at most this many tokens is `short`: it fits the context of the parent and of stage 1.
SHORT_TOKENS = 128
#: Longer problems are dropped: they would not fit the context of stage 2 either.
LONG_TOKENS = 500
#: A question is held out if its rank, from 0 to 2**64, is below: a tenth of all possible questions.
HELD_OUT = 2**64 // 10

_ANSWER = re.compile(r"^(?:steps:)? ?answer: (.*)\n", re.MULTILINE)

Solved = tuple[str, list[str], str]

_SIDES = ("top", "right", "front", "left", "back", "bottom")
_MACHINES = "ABCXYZ"
_OPPOSITE = {"front": "back", "back": "front", "left": "right", "right": "left"}


@dataclass(frozen=True)
class Problem:
    """One problem with its way to the answer.

    Attributes:
        task: Name of the reasoning-gym task.
        level: Difficulty, from 1.
        question: The question in our short form, e.g. `12+34-5`.
        steps: The lines between question and answer.
        answer: Expected text after `answer:`.
        tokens: Length of `text` under the tokenizer of the data folder; 0 while unknown.
    """

    task: Annotated[str, TEXT]
    level: Annotated[int, Between(1)]
    question: Annotated[str, TEXT]
    steps: tuple[str, ...]
    answer: Annotated[str, TEXT]
    tokens: Annotated[int, Between(1)] = 0

    @property
    def prompt(self) -> str:
        """The model's input: up to and including `steps:`; its tokens are a prefix of those of `text`."""
        return f"question: {self.question}\nsteps:"

    @property
    def completion(self) -> str:
        """The expected continuation of `prompt`."""
        return " " + "\n".join((*self.steps, f"answer: {self.answer}\n"))

    @property
    def text(self) -> str:
        """The whole problem, as it is trained on."""
        return self.prompt + self.completion

    @property
    def chat_line(self) -> str:
        """The problem as a line of chat JSONL, its steps as thinking."""
        steps = "\n".join(self.steps)
        return json.dumps({"input": self.question, "output": f"<think>\n{steps}\n</think>\n{self.answer}"}) + "\n"

    @property
    def length(self) -> str:
        """`short` or `long`, by `tokens`."""
        return "short" if self.tokens <= SHORT_TOKENS else "long"

    @property
    def held_out(self) -> bool:
        """Whether this question is kept away from training; a property of its text alone."""
        return rank_of(f"{self.task} {self.question}") < HELD_OUT

    def is_solved_by(self, generated: str) -> bool:
        """Whether a model's text (with or without the prompt) ends in the right answer."""
        return parse_answer(generated) == self.answer

    def with_tokens(self, tokens: int) -> Problem:
        """The same problem, its length known."""
        return replace(self, tokens=tokens)


def parse_answer(text: str) -> str | None:
    """The first complete `answer: …` line of a text, or None."""
    match = _ANSWER.search(text)
    return match.group(1).strip() if match else None


def generate(task: str, level: int, seed: int) -> Iterator[Problem]:
    """Endless problems of one task and level, in an order fixed by the seed.

    They are of both splits, see `Problem.held_out`; their answers have been checked.

    Raises:
        ElasticError: For an unknown task or level, or when reasoning-gym disagrees with an answer.
    """
    if task not in TASKS:
        raise bad("task", task, f"use one of {', '.join(TASKS)}")
    levels = TASKS[task].levels
    if not 1 <= level <= len(levels):
        raise bad("level", level, f"{task} has levels 1 to {len(levels)}")
    import reasoning_gym as gym  # takes more than a second: only when problems are made

    # reasoning-gym samples question i from seed + i, so neighbouring seeds would share nearly all their questions.
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
    """Endless problems of several tasks and levels, sampled by (task, level) → weight and fixed by the seed."""
    sources = {key: generate(*key, seed=seed) for key in weights}
    sample = random.Random(seed)
    keys, shares = list(weights), list(weights.values())
    while True:
        yield next(sources[sample.choices(keys, shares)[0]])


def short_weights() -> dict[tuple[str, int], float]:
    """The mixture for short contexts: the easiest level twice as often as the harder ones together."""
    return {(name, level): share for name in TASKS for level, share in ((1, 6.0), (2, 2.0), (3, 1.0))}


def long_weights() -> dict[tuple[str, int], float]:
    """The mixture for long contexts: every level from the third on, alike."""
    return {(name, level): 1.0 for name, task in TASKS.items() for level in range(3, len(task.levels) + 1)}


# ------------------------------------------------------------------ the tasks


@dataclass(frozen=True)
class Task:
    """One task of reasoning-gym.

    Attributes:
        solve: From an entry's metadata to question, steps and answer.
        levels: Options of the generator, easiest first; the first must be within reach of a tiny model.
        to_gym: From our answer to the form that the generator's scoring reads.
    """

    solve: Callable[[dict[str, Any]], Solved]
    levels: tuple[dict[str, int], ...]
    to_gym: Callable[[str], str] = str


def chain_sum(metadata: dict[str, Any]) -> Solved:
    """`12+34-5`: one line per running sum."""
    first, *rest = metadata["expression"].split()
    total, steps = int(first), []
    for operator, term in zip(rest[::2], rest[1::2], strict=True):
        after = total + int(term) if operator == "+" else total - int(term)
        steps.append(f"{total}{operator}{term}={after}")
        total = after
    return "".join((first, *rest)), steps, str(total)


def gcd(metadata: dict[str, Any]) -> Solved:
    """`gcd 48 18`: Euclid's remainders."""
    a, b = sorted(metadata["numbers"], reverse=True)
    question, steps = f"gcd {a} {b}", []
    while b:
        steps.append(f"{a}%{b}={a % b}")
        a, b = b, a % b
    return question, steps, str(a)


def number_sorting(metadata: dict[str, Any]) -> Solved:
    """`sort up 71 5 23`: take the next number, and write down the rest."""
    left = [int(float(number)) for number in metadata["original_numbers"]]
    up = metadata["direction"] == "ascending"
    question = f"sort {'up' if up else 'down'} {_join(left)}"
    answer, steps = sorted(left, reverse=not up), []
    for number in answer[:-1]:
        left.remove(number)
        steps.append(f"take {number} left {_join(left)}")
    return question, steps, _join(answer)


def string_splitting(metadata: dict[str, Any]) -> Solved:
    """`machines A2 B1`: which machines and parts there are after every rule applied, zeros left out."""
    first, *states = metadata["states"]
    steps = [_counts(state) for state in states or [first]]  # no rule may apply, but there is always a step
    return f"machines {_counts(first)}", steps, _counts(metadata["solution"])


def color_cube_rotation(metadata: dict[str, Any]) -> Solved:
    """`cube … turn front left ask back`: all six sides after every turn, in the order of reasoning-gym."""
    cube = dict(metadata["initial_state"])
    turns, asked = metadata["rotations"], metadata["target_side"]
    question = f"cube {_colors(cube)} turn {' '.join(turns)} ask {asked}"
    steps = []
    for side in turns:
        if side == "bottom":
            cube.update(top=cube["bottom"], bottom=cube["top"], front=cube["back"], back=cube["front"])
        else:
            other = _OPPOSITE[side]
            cube.update({"top": cube[side], side: cube["bottom"], "bottom": cube[other], other: cube["top"]})
        steps.append(_colors(cube))
    return question, steps, cube[asked]


def _join(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _counts(state: list[int]) -> str:
    return " ".join(f"{name}{count}" for name, count in zip(_MACHINES, state, strict=True) if count) or "none"


def _all_counts(counts: str) -> str:
    by_name = {part[0]: part[1:] for part in counts.split() if part != "none"}
    return " ".join(by_name.get(name, "0") for name in _MACHINES)


def _colors(cube: dict[str, str]) -> str:
    return " ".join(cube[side] for side in _SIDES)


def _terms(low: int, high: int, digits: int = 2) -> dict[str, int]:
    return {"min_terms": low, "max_terms": high, "min_digits": digits, "max_digits": digits}


def _values(high: int) -> dict[str, int]:
    return {"min_numbers": 2, "max_numbers": 2, "min_value": 2, "max_value": high}


def _numbers(low: int, high: int, largest: int = 99) -> dict[str, int]:
    decimals = {"min_decimals": 0, "max_decimals": 0}
    return {"min_numbers": low, "max_numbers": high, "min_value": 0, "max_value": largest, **decimals}


def _machines(low: int, high: int) -> dict[str, int]:
    return {"min_initial_machines": low, "max_initial_machines": high}


def _turns(low: int, high: int) -> dict[str, int]:
    return {"min_rotations": low, "max_rotations": high}


# The first level of each but the last is a table of up to 200 questions: a model that cannot copy from its context yet
# can still learn it. Levels 1 to 3 are mostly short, from 4 on long.
TASKS: dict[str, Task] = {
    "chain_sum": Task(chain_sum, (_terms(2, 2, 1), _terms(2, 2), _terms(3, 5), _terms(8, 16), _terms(18, 32))),
    "gcd": Task(gcd, (_values(12), _values(60), _values(1000), _values(10**6), _values(10**8))),
    "number_sorting": Task(
        number_sorting,
        (_numbers(2, 2, 9), _numbers(3, 3), _numbers(4, 6), _numbers(7, 10), _numbers(11, 14)),
        lambda answer: str(answer.split()),
    ),
    "string_splitting": Task(
        string_splitting,
        (_machines(0, 2), _machines(1, 4), _machines(3, 6), _machines(5, 9), _machines(8, 12)),
        _all_counts,
    ),
    "color_cube_rotation": Task(
        color_cube_rotation, (_turns(1, 1), _turns(2, 3), _turns(5, 8), _turns(12, 18), _turns(24, 48))
    ),
}
