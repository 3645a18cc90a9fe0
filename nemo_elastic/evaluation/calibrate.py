# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts whose answers are known, what every member makes of them, and a calibration of that.

n: prompts, m: members from the smallest to the largest, s: signals; b: batch, l: length, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from nemo_elastic.data.bpe import EOS_ID
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import bad
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.runtime.auto.calibration import LEAST, Calibration, fit
from nemo_elastic.runtime.auto.signals import TAIL, signals
from nemo_elastic.runtime.family import FamilyRuntime

from .mixing import Against, against_random

#: prompts, where nobody says how many
USUAL = 512
#: of the dial, where a calibration is tried
DIALS = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Example:
    """A prompt and what comes after it, as token ids."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Measured:
    """What members make of examples.

    Attributes:
        members: names, from the smallest to the largest.
        parameters: of each.
        signals_ns: of the smallest member.
        quality_nm: mean log-probability of the answer's tokens in nats, each after the true ones before it.
    """

    members: tuple[str, ...]
    parameters: tuple[int, ...]
    signals_ns: np.ndarray
    quality_nm: np.ndarray

    def calibrate(self, rows: np.ndarray | None = None) -> Calibration:
        """The calibration of these prompts, or of some of them."""
        take = slice(None) if rows is None else rows
        return fit(self.signals_ns[take], self.quality_nm[take], self.members, self.parameters)


def examples(folder: DataFolder, count: int | None, prompt: int, answer: int, seed: int = 0) -> list[Example]:
    """Held-out prompts: problems with their worked solutions, up to half of all, and pieces of text.

    Args:
        folder: where they are held out.
        count: how many; None for `USUAL`, or as many as there are.
        prompt, answer: tokens of a piece of text before and behind the place where members would take over.
        seed: which pieces are drawn; none overlap.

    Raises:
        ElasticError: it has fewer.
    """
    tokens, length = folder.tokens("val"), prompt + answer
    pieces = len(tokens) // length
    problems = _problems(folder, (count or USUAL) // 2)
    if count is None:
        count = min(USUAL, pieces + len(problems))
    if len(problems) + pieces < count or count < 2 * LEAST:
        most = f"from {2 * LEAST} up to what it has: {len(problems) + pieces} of {prompt} + {answer} tokens"
        raise bad("samples", count, most)
    drawn = np.random.default_rng(seed).choice(pieces, count - len(problems), replace=False)
    texts = [tokens[at * length : (at + 1) * length].tolist() for at in sorted(drawn.tolist())]
    return [*problems, *(Example(ids[:prompt], ids[prompt:]) for ids in texts)]


def _problems(folder: DataFolder, most: int) -> list[Example]:
    tokenizer, out = folder.tokenizer(), []
    for problem in islice(folder.problems(), most):
        asked, whole = (tokenizer.encode(t, add_special_tokens=False).ids for t in (problem.prompt, problem.text))
        out.append(Example([EOS_ID, *asked], whole[len(asked) :]))  # it follows the end of another document
    return out


def measure(
    family: FamilyRuntime, given: Sequence[Example], batch: int = 8, done: Callable[[int], None] = lambda n: None
) -> Measured:
    """Let every member read every example.

    Args:
        family: in memory.
        given: the examples.
        batch: of the same length at once.
        done: told how many readings were done.
    """
    members = [family.select(name) for name in reversed(family.path)]
    signals_ns: list[list[float]] = [[] for _ in given]
    quality_nm = np.zeros((len(given), len(members)))
    for rows in _of_one_length(given, batch):
        tokens_bl = torch.tensor([[*given[i].prompt, *given[i].answer] for i in rows])
        for column, member in enumerate(members):
            logits_blv = member(tokens_bl[:, :-1])
            for row, i in enumerate(rows):
                at, prompt = len(given[i].prompt), given[i].prompt
                if column == 0:
                    tail = prompt[-TAIL:]
                    signals_ns[i] = signals(logits_blv[row, at - len(tail) : at], tail, at)
                answer_lv = logits_blv[row, at - 1 :]
                labels_l = tokens_bl[row, at:].to(answer_lv.device)
                quality_nm[i, column] = -float(F.cross_entropy(answer_lv.to(work_dtype(answer_lv)), labels_l))
            done(len(rows))
    names = tuple(str(m.name) for m in members)
    return Measured(names, tuple(m.parameters for m in members), np.array(signals_ns), quality_nm)


def _of_one_length(given: Sequence[Example], batch: int) -> Iterator[list[int]]:
    lengths: dict[int, list[int]] = {}
    for i, example in enumerate(given):
        lengths.setdefault(len(example.prompt) + len(example.answer), []).append(i)
    for rows in lengths.values():
        for at in range(0, len(rows), batch):
            yield rows[at : at + batch]


def held_out(measured: Measured, seed: int = 0, dials: Sequence[float] = DIALS) -> list[Against]:
    """How well a calibration does on prompts that it has not seen: each half is chosen for by that of the other.

    Args:
        measured: at least twice `LEAST` prompts.
        seed: of the halves.
        dials: to try.

    Raises:
        ElasticError: fewer prompts.
    """
    order = np.random.default_rng(seed).permutation(len(measured.signals_ns))
    halves: tuple[np.ndarray, np.ndarray] = order[: len(order) // 2], order[len(order) // 2 :]
    chosen = np.zeros((len(dials), len(order)), dtype=int)
    for fitted, asked in (halves, halves[::-1]):
        calibration = measured.calibrate(fitted)
        for row, dial in enumerate(dials):
            chosen[row, asked] = calibration.choose(measured.signals_ns[asked], dial)
    costs = calibration.costs
    return [against_random(each, costs, measured.quality_nm) for each in chosen]
