# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Medians of differences, their intervals, and when measuring ends. Clocks here are numbers with known noise."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_elastic.core.latency import DECODE, PREFILL, Workload
from nemo_elastic.profile.timing import TIMED, Stop, _half, difference, phases


class Clock:
    """A model whose seconds are known: `prompt_s` for a token of a prompt, `token_s` for one of an answer."""

    def __init__(self, prompt_s: float, token_s: float, noise: float = 0.0, drift: list[float] | None = None) -> None:
        self.prompt_s, self.token_s, self.noise = prompt_s, token_s, noise
        self.random, self.drift, self.asked = np.random.default_rng(0), drift or [1.0], []

    def seconds(self, prompt: int, new: int) -> float:
        self.asked.append((prompt, new))
        slow = self.drift[0] = self.drift[0] * (1.01 if len(self.drift) > 1 else 1)
        taken = prompt * self.prompt_s + (new - 1) * self.token_s * (prompt + 100)
        return taken * slow * (1 + self.noise * self.random.standard_normal())

    def close(self) -> None: ...


def test_a_token_is_timed_in_the_middle_of_an_answer() -> None:
    model = Clock(1e-3, 1e-5)
    by_phase = phases(model, Workload(1, 50, 101))
    assert model.asked == [(50, 1), (92, 1), (92, 1 + TIMED)]
    assert by_phase == pytest.approx([50e-3, 192e-5])
    model = Clock(1e-3, 1e-5)
    phases(model, Workload(1, 50, 2))
    assert model.asked == [(50, 1), (50, 2)]


def test_a_difference_ends_when_it_is_known_and_lies_in_its_interval() -> None:
    first, second = Clock(1e-3, 1e-4, 0.01), Clock(1.5e-3, 2e-4, 0.01)
    stop = Stop(0.01, (6, 400), 60.0)
    taken = difference(first, second, Workload(1, 50, 3), stop)
    assert 6 <= taken.rounds < 400
    assert abs(taken.seconds[PREFILL] - 25e-3) < 3 * taken.bounds[PREFILL]
    assert all(taken.bounds[p] <= 0.01 * taken.first[p] for p in (PREFILL, DECODE))
    still = difference(Clock(1e-3, 1e-5), Clock(1.5e-3, 2e-5), Workload(1, 50, 3), stop)
    assert still.rounds == 6 and still.bounds[PREFILL] == pytest.approx(0, abs=1e-12)
    alone = difference(None, Clock(1e-3, 1e-5), Workload(1, 50, 3), stop)
    assert alone.seconds[PREFILL] == pytest.approx(50e-3)
    # 0.4 ms a token are outside of what the second has twice
    rest = difference(Clock(1e-3, 1e-5), Clock(1.6e-3, 1.5e-5), Workload(1, 50, 3), stop, rest=True)
    assert rest.seconds[PREFILL] == pytest.approx(0.4 * 50e-3)


def test_a_machine_that_slows_down_slows_both_models() -> None:
    drift = [1.0, 1.0]  # shared: one machine
    taken = difference(Clock(1e-3, 1e-5, drift=drift), Clock(2e-3, 1e-5, drift=drift), Workload(1, 50, 3), Stop(1e-9))
    ratio = taken.seconds[PREFILL] / taken.first[PREFILL]
    assert ratio == pytest.approx(1, abs=0.05), "each round compares neighbours"


def test_measuring_ends_after_its_rounds_or_its_seconds() -> None:
    noisy = (Clock(1e-3, 1e-5, 0.5), Clock(2e-3, 1e-5, 0.5))
    assert difference(*noisy, Workload(1, 50, 3), Stop(1e-6, (6, 9), 60.0)).rounds == 9
    assert difference(*noisy, Workload(1, 50, 3), Stop(1e-6, (6, 9), 0.0)).rounds == 1


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for n in (6, 11, 30):
        samples = random.exponential(size=(2000, n, 1))  # skewed: nothing is assumed of the distribution
        held = 0
        for sample in samples:
            middle, half = float(np.median(sample)), float(_half(sample)[0])
            held += abs(middle - np.log(2)) <= 2 * half
        assert held / len(samples) > 0.93
    assert all(np.isinf(_half(random.random((n, 2)))).all() for n in range(1, 6)), "five samples bound nothing"
