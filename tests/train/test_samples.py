# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Budget sampling: right frequencies, independent samples, no state."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_elastic.train.samples import BudgetSampler

#: upper 0.1 % point of chi-squared with 4 degrees of freedom
CHI2_4 = 18.47


def test_samples_are_independent_across_micro_batches_and_steps_pitfall_4() -> None:
    sampler = BudgetSampler([1, 1, 1], seed=0)
    samples = np.array([[sampler.budget(s, m) for m in range(4)] for s in range(2000)])
    second = np.array([BudgetSampler([1, 1, 1], seed=0, stage=2).budget(s, 0) for s in range(2000)])
    pairs = (samples[:, 0], samples[:, 1]), (samples[:-1, 0], samples[1:, 0]), (samples[:-1, 3], samples[1:, 0])
    for a, b in (*pairs, (samples[:, 0], second)):
        joint = np.zeros((3, 3))
        np.add.at(joint, (a, b), 1)
        expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / joint.sum()
        assert ((joint - expected) ** 2 / expected).sum() < CHI2_4
    assert len({tuple(row) for row in samples.tolist()}) > 60  # of 81: no pattern repeats


def test_samples_have_no_state_and_are_those_of_seed_and_stage() -> None:
    def drawn(seed: int, stage: int = 1, backwards: bool = False) -> list[int]:
        sampler = BudgetSampler([1, 2, 1], seed, stage)
        places = [(step, m) for step in range(40) for m in range(2)]
        return [sampler.budget(*at) for at in places[:: 1 - 2 * backwards]][:: 1 - 2 * backwards]

    assert drawn(7) == drawn(7) == drawn(7, backwards=True)
    assert all(drawn(7) != other for other in (drawn(8), drawn(7, stage=2)))


@pytest.mark.parametrize("weights", [[5, 3, 2], [0, 1, 0, 3], [1e-17, 1]])
def test_budgets_are_sampled_as_often_as_they_should_be_pitfall_4(weights: list[float]) -> None:
    sampler, n = BudgetSampler(weights, 5), 6000
    counts = np.bincount([sampler.budget(s, m) for s in range(n // 4) for m in range(4)], minlength=len(weights))
    expected = np.array(weights) / sum(weights)
    assert (np.abs(counts - n * expected) <= 4 * np.sqrt(n * expected * (1 - expected))).all()
