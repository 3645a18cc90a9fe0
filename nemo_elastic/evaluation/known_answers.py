# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts whose answers are known, what every member makes of them, and a calibration of that.

Calibrations are tried against chance: what the same mean cost buys where members are sampled without looking.

n: prompts, m: members from the smallest to the largest, s: signals; b: batch, l: length, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.data.given import Given
from nemo_elastic.errors import bad
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.runtime.family_runtime import FamilyRuntime
from nemo_elastic.serving.calibration import LEAST, TAIL, Calibration, fit, signals

#: half-width of a 95 % interval, in standard errors
_WIDE = 1.96


def random_mix(costs: np.ndarray, quality_m: np.ndarray, cost: float) -> np.ndarray:
    """The best random mixture of fixed members at a mean cost: shares of each, [m].

    It lies on the upper hull of (cost, quality): no other lottery of members has more quality for that cost.

    Args:
        costs: of the members, rising.
        quality_m: mean quality of each; more is better.
        cost: from the first of the costs to the last.
    """
    best, shares = -np.inf, np.zeros(len(costs))
    for i in range(len(costs)):
        for j in range(i, len(costs)):
            if costs[i] <= cost <= costs[j]:
                part = 0.0 if i == j else (cost - costs[i]) / (costs[j] - costs[i])
                mixed = (1 - part) * quality_m[i] + part * quality_m[j]
                if mixed > best:
                    best, shares = mixed, np.zeros(len(costs))
                    shares[i] += 1 - part
                    shares[j] += part
    return shares


@dataclass(frozen=True)
class Against:
    """A choice against the best random mixture of the same mean cost, on the same prompts.

    Attributes:
        cost: mean cost of the members that were chosen.
        quality: mean quality of the choice.
        random: of the mixture, which knows how good every member is on these very prompts.
        gain: quality - random.
        wide: half-width of the gain's 95 % interval.
    """

    cost: float
    quality: float
    random: float
    gain: float
    wide: float


def against_random(
    chosen: np.ndarray, costs: np.ndarray, quality_nm: np.ndarray, groups: Sequence[int] | np.ndarray | None = None
) -> Against:
    """Compare a choice with chance.

    Args:
        chosen: member of each prompt, [n].
        costs: of the members, [m].
        quality_nm: of every member's answer to every prompt.
        groups: prompts of one group, such as a document, are not independent; by default each is its own.
    """
    cost = float(np.clip(costs[chosen].mean(), costs[0], costs[-1]))
    shares = random_mix(costs, quality_nm.mean(0), cost)
    own_n, random_n = quality_nm[np.arange(len(chosen)), chosen], quality_nm @ shares
    gain_n = own_n - random_n
    rest_n = gain_n - gain_n.mean()
    sums = rest_n if groups is None else np.bincount(np.unique(groups, return_inverse=True)[1], rest_n)
    error = float(np.sqrt((sums**2).sum())) / len(gain_n)
    return Against(cost, float(own_n.mean()), float(random_n.mean()), float(gain_n.mean()), _WIDE * error)


#: prompts, where nobody says how many
USUAL = 512
#: cost settings at which a calibration is tried
TRIED = (0.1, 0.25, 0.5, 0.75)


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


def examples(given: Given, count: int | None, prompt: int, answer: int, seed: int = 0) -> list[Example]:
    """Prompts whose answers are known: problems with their worked solutions, up to half of all, and pieces of text.

    Of conversations each gives one: what comes before its first answer, and the beginning of that.

    Args:
        given: what was held out, or the user's own.
        count: how many; None for `USUAL`, or as many as there are.
        prompt, answer: tokens of a piece of text before and behind the place where members would take over.
        seed: which pieces are sampled; none overlap.

    Raises:
        ElasticError: there are fewer.
    """
    length = prompt + answer
    chats = [each for each in (_first_answer(d, answer) for d in given.documents) if each] if given.is_chat else []
    tokens = given.tokens[:0] if given.is_chat else given.tokens
    known = chats or _problems(given.folder, (count or USUAL) // 2)
    pieces = len(tokens) // length
    if count is None:
        count = min(USUAL, pieces + len(known))
    if len(known) + pieces < count or count < 2 * LEAST:
        most = f"from {2 * LEAST} up to what it has: {len(known) + pieces} of {prompt} + {answer} tokens"
        raise bad("samples", count, most)
    generator = np.random.default_rng(seed)
    if chats:
        return [chats[at] for at in sorted(generator.choice(len(chats), count, replace=False).tolist())]
    sampled = generator.choice(pieces, count - len(known), replace=False)
    texts = [tokens[at * length : (at + 1) * length].tolist() for at in sorted(sampled.tolist())]
    return [*known, *(Example(ids[:prompt], ids[prompt:]) for ids in texts)]


def _problems(folder: DataFolder | None, most: int) -> list[Example]:
    problems = [] if folder is None else folder.problems()[:most]
    if folder is None or not problems:
        return []
    tokenizer, end, out = folder.tokenizer(), folder.end_id, []
    for problem in problems:
        asked, whole = (tokenizer.encode(t, add_special_tokens=False).ids for t in (problem.prompt, problem.text))
        out.append(Example([end, *asked], whole[len(asked) :]))  # it follows the end of another document
    return out


def _first_answer(document: Encoded, most: int) -> Example | None:
    """What comes before the first answer of a conversation, and so many of its tokens; None where nothing does."""
    counts = np.ones(len(document.ids), dtype=bool) if document.counts is None else document.counts
    start = int(counts.argmax())
    end = min(start + most, start + int(np.append(counts[start:], False).argmin()))
    return Example(document.ids[:start].tolist(), document.ids[start:end].tolist()) if start else None


def measure(
    family: FamilyRuntime, given: Sequence[Example], batch: int = 8, done: Callable[[int], None] = lambda n: None
) -> Measured:
    """Let every member read every example.

    Args:
        family: in memory.
        given: the examples.
        batch: of the same length at once.
        done: called with how many readings were done.
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


def held_out(measured: Measured, seed: int = 0, tried: Sequence[float] = TRIED) -> list[Against]:
    """How well a calibration does on prompts that it has not seen: each half is chosen for by that of the other.

    Args:
        measured: at least twice `LEAST` prompts.
        seed: of the halves.
        tried: cost settings.

    Raises:
        ElasticError: fewer prompts.
    """
    order = np.random.default_rng(seed).permutation(len(measured.signals_ns))
    halves: tuple[np.ndarray, np.ndarray] = order[: len(order) // 2], order[len(order) // 2 :]
    chosen = np.zeros((len(tried), len(order)), dtype=int)
    for fitted, asked in (halves, halves[::-1]):
        calibration = measured.calibrate(fitted)
        for row, cost in enumerate(tried):
            chosen[row, asked] = calibration.choose(measured.signals_ns[asked], cost)
    costs = calibration.costs
    return [against_random(each, costs, measured.quality_nm) for each in chosen]
