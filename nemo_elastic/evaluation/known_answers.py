# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts whose answers are known, what every member makes of them, and a calibration of that.

Calibrations are tried against chance: what the same mean cost buys where members are sampled without looking.

n: prompts, m: members from the smallest to the largest, s: signals; b: batch, l: length, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.eval_data import EvalData, drawn_pieces
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from nemo_elastic.runtime.family_runtime import FamilyRuntime
from nemo_elastic.serving.calibration import LEAST, SIGNALS, TAIL, Calibration, fit, signals

from .scoring import log_probs

#: half-width of a 95 % interval, in standard errors
_WIDE = 1.96


def random_mix(costs: np.ndarray, quality_m: np.ndarray, cost: float) -> np.ndarray:
    """The best random mixture of fixed members at a mean cost, as shares of each, [m].

    It lies on the upper hull of (cost, quality): no other lottery of members has more quality for that cost. `costs`
    rise.
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
    """Compare the members chosen for prompts, [n], with chance.

    Prompts of one of the `groups`, such as a document, are not independent; by default each is its own.
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


def examples(data: EvalData, most: int = USUAL, prompt: int = 64, answer: int = 32, seed: int = 0) -> Rows:
    """Prompts whose answers are known, a row of each, in which the answer's tokens count.

    They are problems with their worked solutions, up to half of all, and pieces of text, of `prompt` tokens before and
    `answer` tokens behind the place where members would take over. Pieces are sampled by the seed and do not overlap.
    Each conversation gives one example: what comes before its first answer, and the beginning of that answer. There
    are as many as the data has, at `most` so many.
    """
    length = prompt + answer
    chats = [row for document in data.documents if (row := _first_answer(document, answer))] if data.is_chat else []
    tokens = data.tokens[:0] if data.is_chat else data.tokens
    known = chats or _problems(data.folder, most // 2)
    pieces = len(tokens) // length
    count = min(most, pieces + len(known))
    if data.is_chat and not chats:
        raise ElasticError("the chat template has no {% generation %} marks, so no answer is known", "--data")
    if count < 2 * LEAST:
        least = f"{2 * LEAST} prompts of {prompt} + {answer} tokens, problems or conversations"
        raise ElasticError(f"has {count} prompts with answers; at least {least} are needed", "--data")
    if chats:
        return Rows.joined(chats[:count])
    texts = drawn_pieces(tokens, length, count - len(known), seed)
    return Rows.joined([*known, *(Rows.continuation(ids[:prompt], ids[prompt:]) for ids in texts)])


def _problems(folder: DataFolder | None, most: int) -> list[Rows]:
    problems = [] if folder is None else folder.problems()[:most]
    if folder is None or not problems:
        return []
    tokenizer, end, out = folder.tokenizer(), folder.end_id, []
    for problem in problems:
        asked, whole = (tokenizer.encode(t, add_special_tokens=False).ids for t in (problem.prompt, problem.text))
        out.append(Rows.continuation([end, *asked], whole[len(asked) :]))  # it follows the end of another document
    return out


def _first_answer(document: Encoded, most: int) -> Rows | None:
    """A conversation up to so many tokens of its first answer; None where nothing comes before that."""
    counts = np.ones(len(document.ids), dtype=bool) if document.counts is None else document.counts
    start = int(counts.argmax())
    end = min(start + most, start + int(np.append(counts[start:], False).argmin()))
    return Rows.continuation(document.ids[:start], document.ids[start:end]) if start else None


def measure(
    family: FamilyRuntime, rows: Rows, batch: int = 8, done: Callable[[int], None] = lambda n: None
) -> Measured:
    """Let every member read every example; `done` is called with how many readings were done."""
    members = [family.select(name) for name in reversed(family.path)]
    counts_bl = rows.every_count()
    prompt_n = (counts_bl != 0).numpy().argmax(1) + 1
    signals_ns = np.zeros((len(rows), len(SIGNALS)))

    def read(numbers: list[int], logits_blv: torch.Tensor) -> None:
        for i, logits_lv in zip(numbers, logits_blv, strict=True):
            tail = slice(max(0, prompt_n[i] - TAIL), prompt_n[i])
            signals_ns[i] = signals(logits_lv[tail], rows.ids_bl[i, tail].tolist(), int(prompt_n[i]))
        done(len(numbers))

    watches = [read, *[lambda numbers, _: done(len(numbers))] * (len(members) - 1)]
    sums_mn = [log_probs(member, rows, batch, seen).sum(1) for member, seen in zip(members, watches, strict=True)]
    quality_nm = (torch.stack(sums_mn, 1) / counts_bl.sum(1, keepdim=True)).numpy()
    names = tuple(str(m.name) for m in members)
    return Measured(names, tuple(m.parameters for m in members), signals_ns, quality_nm)


def held_out(measured: Measured, seed: int = 0, tried: Sequence[float] = TRIED) -> list[Against]:
    """How well a calibration does on prompts that it has not seen, at some cost settings.

    Each half of the prompts, of which there are at least twice `LEAST`, is chosen for by the calibration of the other.
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
