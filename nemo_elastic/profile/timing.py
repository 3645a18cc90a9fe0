# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Differences of two models' times, taken in turns until they are known well enough."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Protocol

import numpy as np

from nemo_elastic.core.latency import DECODE, PHASES, PREFILL, Workload

__all__ = ["Difference", "Model", "Stop", "difference", "phases"]

#: tokens of an answer that are timed, at most: they lie in the middle of it
TIMED = 16


class Model(Protocol):
    """A model in an engine, ready to answer."""

    def seconds(self, prompt: int, new: int) -> float:
        """What a batch of prompts of so many tokens takes to get so many more, each."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Stop:
    """When a difference is known well enough.

    Attributes:
        tolerance: half of the interval for the median, over the time of the smaller model.
        rounds: fewest and most; the interval holds the median with 95 % from six on.
        seconds: in which no further round begins.
    """

    tolerance: float = 0.01
    rounds: tuple[int, int] = (6, 30)
    seconds: float = 60.0


@dataclass(frozen=True)
class Difference:
    """How much longer the second model takes, or what the first has besides that.

    Attributes:
        seconds: phase -> median; bounds: half of its interval of 95 %.
        first: phase -> median of the first model.
        rounds: that were measured.
    """

    seconds: Mapping[str, float]
    bounds: Mapping[str, float]
    first: Mapping[str, float]
    rounds: int


def phases(model: Model, work: Workload) -> np.ndarray:
    """Seconds of a model by phase, float64 [phases]: prompts to the first token, a token in the middle of answers."""
    timed = min(TIMED, max(1, work.answer - 1))
    before = work.prompt + max(0, work.answer - 1 - timed) // 2
    first = model.seconds(work.prompt, 1)
    start = first if before == work.prompt else model.seconds(before, 1)
    by_phase = {PREFILL: first, DECODE: (model.seconds(before, 1 + timed) - start) / timed}
    return np.array([by_phase[phase] for phase in PHASES])


def difference(first: Model | None, second: Model, work: Workload, stop: Stop, rest: bool = False) -> Difference:
    """How much longer a model takes than another one; without another one, how long it takes.

    They take turns, and who begins changes, so that a machine that slows down slows both. The first round is warm-up.

    Args:
        first, second: the models.
        work: what they are given.
        stop: when it is enough.
        rest: give what the first takes without that difference, instead: where the second has all layers twice, what
            is outside of them.
    """
    models = [m for m in (first, second) if m is not None]
    for model in models:
        phases(model, work)
    began, rounds = time.perf_counter(), []
    while True:
        order = models if len(rounds) % 2 else models[::-1]
        taken = {id(model): phases(model, work) for model in order}
        rounds.append([taken[id(model)] for model in models])
        each = np.array(rounds)  # [rounds, models, phases]
        gained = each[:, -1] - each[:, 0] if first is not None else each[:, 0]
        gained = each[:, 0] - gained if rest else gained
        middle, half = np.median(gained, axis=0), _half(gained)
        base = np.median(each[:, 0], axis=0)
        enough = len(rounds) >= stop.rounds[0] and bool((half <= stop.tolerance * base).all())
        if enough or len(rounds) >= stop.rounds[1] or time.perf_counter() - began > stop.seconds:
            named = [_named(values) for values in (middle, half, base)]
            return Difference(*named, rounds=len(rounds))


def _named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(PHASES, map(float, values), strict=True))


def _half(samples_np: np.ndarray) -> np.ndarray:
    """Half of the interval that holds the median with 95 %, whatever the distribution: between order statistics."""
    ordered, n = np.sort(samples_np, axis=0), len(samples_np)
    # chance that the median is not between the k-th of n samples and the k-th from behind
    missed = {k: 2 * sum(comb(n, i) for i in range(k)) / 2**n for k in range(n // 2, 0, -1)}
    low = next((k for k, chance in missed.items() if chance <= 0.05), None)
    return np.full(samples_np.shape[1], np.inf) if low is None else (ordered[n - low] - ordered[low - 1]) / 2
