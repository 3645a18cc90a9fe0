# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Budget sampling: right frequencies, independent samples, no state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.train.samples import BudgetSampler

#: upper 0.1 % point of chi-squared with 4 degrees of freedom
CHI2_4 = 18.47


def test_samples_are_independent_across_micro_batches_and_steps_pitfall_4() -> None:
    sampler = BudgetSampler([1, 1, 1], seed=0)
    samples = np.array([[sampler.samples(s, m)[0] for m in range(4)] for s in range(2000)])
    second = np.array([BudgetSampler([1, 1, 1], seed=0, stage=2).samples(s, 0)[0] for s in range(2000)])
    pairs = (samples[:, 0], samples[:, 1]), (samples[:-1, 0], samples[1:, 0]), (samples[:-1, 3], samples[1:, 0])
    for a, b in (*pairs, (samples[:, 0], second)):
        joint = np.zeros((3, 3))
        np.add.at(joint, (a, b), 1)
        expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / joint.sum()
        assert ((joint - expected) ** 2 / expected).sum() < CHI2_4
    assert len({tuple(row) for row in samples.tolist()}) > 60  # of 81: no pattern repeats


def test_each_candidate_has_its_turn_once_in_as_many_micro_batches_or_steps() -> None:
    live, sampler, orders = 4, BudgetSampler([1, 1, 1], seed=5), list[tuple[int, ...]]()
    for step in range(8 * live):
        assert sorted(sampler.turn(step, m, live) for m in range(live)) == list(range(live))
        if step % live == 0:
            orders.append(tuple(sampler.turn(s, 0, live) for s in range(step, step + live)))
            assert sorted(orders[-1]) == list(range(live))
    assert len(set(orders)) > 1, "none always follows the same"


def test_samples_and_turns_have_no_state_and_are_those_of_seed_and_stage() -> None:
    def drawn(seed: int, stage: int = 1, backwards: bool = False) -> tuple[list[list[int]], list[int]]:
        sampler = BudgetSampler([1, 2, 1], seed, stage)
        places = [(step, m) for step in range(40) for m in range(2)]
        samples, turns = zip(*((sampler.samples(*at), sampler.turn(*at, 4)) for at in places[:: 1 - 2 * backwards]))
        return list(samples)[:: 1 - 2 * backwards], list(turns)[:: 1 - 2 * backwards]

    assert drawn(7) == drawn(7) == drawn(7, backwards=True)
    for other in (drawn(8), drawn(7, stage=2)):
        assert all(a != b for a, b in zip(drawn(7), other))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), st.data())
def test_budgets_are_different_and_their_shares_add_up(weights: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, sum(w > 0 for w in weights)))
    sampler = BudgetSampler(weights, data.draw(st.integers(0, 99)), 1, count)
    for step in range(20):
        sampled = sampler.samples(step, 0)
        assert sampled == sorted(set(sampled)) and len(sampled) == count
        assert all(weights[i] > 0 for i in sampled)
        assert sum(sampler.share(i) for i in sampled) == pytest.approx(1)
        assert sampled == BudgetSampler(weights, sampler.seed, 1, count).samples(step, 0)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_every_budget_keeps_its_weight_over_many_micro_batches(weights: list[int], data: st.DataObject) -> None:
    """Chance of being sampled x share of the loss = weight; the share is 1/count unless the weight exceeds it."""
    count = data.draw(st.integers(1, len(weights)))
    sampler = BudgetSampler(weights, 0, 1, count)
    chances = sampler.inclusion
    assert chances.sum() == pytest.approx(count) and chances.max() <= 1
    for i, w in enumerate(sampler.probabilities):
        assert chances[i] * sampler.share(i) == pytest.approx(w)
        if max(sampler.probabilities) * count <= 1 - 1e-6:
            assert sampler.share(i) == pytest.approx(1 / count)


def test_a_weight_far_below_the_others_is_sampled_where_there_is_room() -> None:
    assert BudgetSampler([1, 1e-17], 0, 1, 2).samples(0, 0) == [0, 1]


@pytest.mark.parametrize(
    ("weights", "count"),
    [([5, 3, 2], 1), ([5, 3, 2, 1], 2), ([8, 1, 1], 2)],
)
def test_budgets_are_sampled_as_often_as_they_should_be_pitfall_4(weights: list[int], count: int) -> None:
    sampler, n = BudgetSampler(weights, 5, 1, count), 6000
    counts = np.bincount(np.concatenate([sampler.samples(s, m) for s in range(n // 4) for m in range(4)]))
    spread = np.sqrt(n * sampler.inclusion * (1 - sampler.inclusion))
    assert (np.abs(counts - n * sampler.inclusion) <= 4 * spread).all()


def test_neighbours_in_size_are_kept_apart() -> None:
    pairs = {tuple(BudgetSampler([1, 1, 1, 1], 0, 1, 2).samples(s, 0)) for s in range(200)}
    assert pairs == {(0, 2), (1, 3)}
