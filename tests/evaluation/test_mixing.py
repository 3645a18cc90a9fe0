# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A choice against chance: the best lottery of members, and what looking gains over it."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_elastic.evaluation.mixing import against_random, random_mix

COSTS = np.array([0.0, 0.4, 1.0])


@pytest.mark.parametrize(
    ("quality", "cost", "expected"),
    [
        ([0.0, 0.9, 1.0], 0.2, [0.5, 0.5, 0.0]),  # the middle one is above the line between the ends
        ([0.0, 0.9, 1.0], 0.7, [0.0, 0.5, 0.5]),
        ([0.0, 0.1, 1.0], 0.25, [0.75, 0.0, 0.25]),  # and below it
        ([0.0, 0.1, 1.0], 0.4, [0.6, 0.0, 0.4]),
        ([0.0, 0.9, 1.0], 0.4, [0.0, 1.0, 0.0]),
        ([0.0, 0.5, 1.0], 0.0, [1.0, 0.0, 0.0]),
        ([0.0, 0.5, 1.0], 1.0, [0.0, 0.0, 1.0]),
    ],
)
def test_the_best_lottery(quality, cost, expected):
    assert random_mix(COSTS, np.array(quality), cost) == pytest.approx(expected)


def test_a_random_choice_gains_nothing_and_foresight_does():
    rng = np.random.default_rng(0)
    right = (rng.random((4000, 1)) < [0.5, 0.7, 1.0]).astype(float)
    blind = against_random(rng.choice(3, 4000, p=[0.7, 0.0, 0.3]), COSTS, right)
    assert abs(blind.gain) < 2 * blind.wide and 0.005 < blind.wide < 0.03
    seen = against_random(np.where(right[:, 0] == 1, 0, 2), COSTS, right)
    assert seen.quality == 1.0 and seen.gain - seen.wide > 0.15
    assert seen.cost == pytest.approx((right[:, 0] == 0).mean()) and seen.gain == pytest.approx(1 - seen.random)


def test_prompts_of_one_document_are_one_witness():
    """The same answers ten times over are no surer than once."""
    rng = np.random.default_rng(1)
    quality_nm, chosen = rng.random((50, 3)), rng.integers(3, size=50)
    once = against_random(chosen, COSTS, quality_nm)
    often = against_random(np.tile(chosen, 10), COSTS, np.tile(quality_nm, (10, 1)), np.tile(np.arange(50), 10))
    assert often.gain == pytest.approx(once.gain) and often.wide == pytest.approx(once.wide)
    unaware = against_random(np.tile(chosen, 10), COSTS, np.tile(quality_nm, (10, 1)))
    assert unaware.wide < once.wide / 3
