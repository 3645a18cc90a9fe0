# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Budget sampling: right frequencies, independent draws, no state."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_elastic.nemo.sampling import BudgetSampler

#: upper 0.1 % point of chi-squared with 2 and with 8 degrees of freedom
CHI2_2, CHI2_4, CHI2_8 = 13.82, 18.47, 26.12


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.5, 0.3, 0.2]])
def test_frequencies_pass_a_chi_squared_test_pitfall_4(weights: list[float]) -> None:
    sampler = BudgetSampler(weights, seed=3)
    n = 6000
    counts = np.bincount([sampler.draw(s, m) for s in range(n // 4) for m in range(4)], minlength=3)
    expected = n * np.asarray(weights) / sum(weights)
    assert ((counts - expected) ** 2 / expected).sum() < CHI2_2


def test_draws_are_independent_across_micro_batches_and_steps_pitfall_4() -> None:
    sampler = BudgetSampler([1, 1, 1], seed=0)
    draws = np.array([[sampler.draw(s, m) for m in range(4)] for s in range(2000)])
    second = np.array([BudgetSampler([1, 1, 1], seed=0, stage=2).draw(s, 0) for s in range(2000)])
    pairs = (draws[:, 0], draws[:, 1]), (draws[:-1, 0], draws[1:, 0]), (draws[:-1, 3], draws[1:, 0])
    for a, b in (*pairs, (draws[:, 0], second)):
        joint = np.zeros((3, 3))
        np.add.at(joint, (a, b), 1)
        expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / joint.sum()
        assert ((joint - expected) ** 2 / expected).sum() < CHI2_4
    assert len({tuple(row) for row in draws.tolist()}) > 60  # of 81: no pattern repeats


def test_no_state_and_no_dependence_on_other_draws() -> None:
    a, b = BudgetSampler([1, 2], seed=7), BudgetSampler([1, 2], seed=7)
    forward = [a.draw(s, 0) for s in range(50)]
    backward = [b.draw(s, 0) for s in reversed(range(50))]
    assert forward == backward[::-1]
    assert [BudgetSampler([1, 2], seed=8).draw(s, 0) for s in range(50)] != forward


def test_a_weight_of_zero_is_never_drawn() -> None:
    sampler = BudgetSampler([1, 0, 1], seed=1)
    assert {sampler.draw(s, 0) for s in range(300)} == {0, 2}
