# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The calibration of the model `auto`: prompts with known answers, and each member's log-probability of the answers.

A calibration is compared with chance: a random mixture of members at the same mean cost.

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

#: half-width of a 95 % interval in standard errors
_ERRORS = 1.96


def random_mix(costs: np.ndarray, quality_m: np.ndarray, cost: float) -> np.ndarray:
    """Shares [m] of the members in the random mixture with the highest quality at a mean cost; `costs` rise.

    The mixture lies on the upper hull of (cost, quality).
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
class Comparison:
    """Chosen members against the best random mixture at the same mean cost, on the same prompts.

    Attributes:
        cost: mean cost of the chosen members.
        quality: mean quality of the chosen members.
        random: quality of the mixture, which is fitted to these prompts.
        gain: quality - random.
        half_width: half-width of the gain's 95 % interval.
    """

    cost: float
    quality: float
    random: float
    gain: float
    half_width: float


def against_random(
    chosen: np.ndarray, costs: np.ndarray, quality_nm: np.ndarray, groups: Sequence[int] | np.ndarray | None = None
) -> Comparison:
    """Compare the members chosen for prompts, [n], with chance.

    Prompts of one group, such as a document, are not independent; without `groups` every prompt is a group.
    """
    cost = float(np.clip(costs[chosen].mean(), costs[0], costs[-1]))
    shares = random_mix(costs, quality_nm.mean(0), cost)
    own_n, random_n = quality_nm[np.arange(len(chosen)), chosen], quality_nm @ shares
    gain_n = own_n - random_n
    rest_n = gain_n - gain_n.mean()
    sums = rest_n if groups is None else np.bincount(np.unique(groups, return_inverse=True)[1], rest_n)
    error = float(np.sqrt((sums**2).sum())) / len(gain_n)
    return Comparison(cost, float(own_n.mean()), float(random_n.mean()), float(gain_n.mean()), _ERRORS * error)


#: most prompts of a calibration
PROMPTS = 512
#: cost settings at which a calibration is compared with chance
COST_SETTINGS = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Measured:
    """Measurements of all members on prompts with known answers.

    Attributes:
        members: names, from the smallest to the largest.
        parameters: of each member.
        signals_ns: signals of the smallest member.
        quality_nm: mean log-probability of the answer's tokens in nats, given the prompt and the answer before them.
    """

    members: tuple[str, ...]
    parameters: tuple[int, ...]
    signals_ns: np.ndarray
    quality_nm: np.ndarray

    def calibrate(self, rows: np.ndarray | None = None) -> Calibration:
        """Fit a calibration to all prompts, or to these `rows`."""
        take = slice(None) if rows is None else rows
        return fit(self.signals_ns[take], self.quality_nm[take], self.members, self.parameters)


def examples(data: EvalData, most: int = PROMPTS, prompt: int = 64, answer: int = 32, seed: int = 0) -> Rows:
    """Rows of a prompt and its answer, in which the answer's tokens count; at most `most` rows.

    Text gives pieces of `prompt` + `answer` tokens, sampled by the seed, which do not overlap. A data folder also
    gives problems with their worked solutions, for up to half of the rows. A conversation gives one row: its tokens
    before the first answer, and the first tokens of that answer.
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
        out.append(Rows.continuation([end, *asked], whole[len(asked) :]))  # as after the end of a document
    return out


def _first_answer(document: Encoded, most: int) -> Rows | None:
    """A conversation up to `most` tokens of its first answer; None if it begins with an answer."""
    counts = np.ones(len(document.ids), dtype=bool) if document.counts is None else document.counts
    start = int(counts.argmax())
    end = min(start + most, start + int(np.append(counts[start:], False).argmin()))
    return Rows.continuation(document.ids[:start], document.ids[start:end]) if start else None


def measure(
    family: FamilyRuntime, rows: Rows, batch: int = 8, done: Callable[[int], None] = lambda n: None
) -> Measured:
    """Measure every member on every row; `done` is called with the number of rows of one member that are done."""
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


def held_out(measured: Measured, seed: int = 0, settings: Sequence[float] = COST_SETTINGS) -> list[Comparison]:
    """Compare a calibration with chance on prompts that it was not fitted to, at each cost setting.

    The calibration of one half of the prompts, at least `LEAST`, chooses members for the other half.
    """
    order = np.random.default_rng(seed).permutation(len(measured.signals_ns))
    halves: tuple[np.ndarray, np.ndarray] = order[: len(order) // 2], order[len(order) // 2 :]
    chosen = np.zeros((len(settings), len(order)), dtype=int)
    for fitted, asked in (halves, halves[::-1]):
        calibration = measured.calibrate(fitted)
        for row, cost in enumerate(settings):
            chosen[row, asked] = calibration.choose(measured.signals_ns[asked], cost)
    costs = calibration.costs
    return [against_random(each, costs, measured.quality_nm) for each in chosen]
