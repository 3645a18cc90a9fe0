# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How many tokens are drafted: what the formula promises is what happens, and what does not pay stops."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.runtime.draft_length import MOST, PAUSE, DraftLength, best_length, speed_up


@pytest.mark.parametrize(("accepted", "k", "cost"), [(0.9, 2, 0.5), (0.6, 4, 0.25), (1.0, 3, 0.1), (0.0, 2, 0.5)])
def test_the_formula_is_what_rounds_give(accepted, k, cost):
    """Rounds played by coin: tokens of a round over its cost."""
    coin, rounds, tokens = random.Random(0), 40_000, 0
    for _ in range(rounds):
        kept = next((n for n in range(k) if coin.random() >= accepted), k)
        tokens += kept + 1
    assert speed_up(accepted, k, cost) == pytest.approx(tokens / rounds / (cost * k + 1), rel=0.01)


@given(st.floats(0, 1), st.floats(0.01, 1), st.integers(0, MOST))
def test_no_other_length_is_better(accepted, cost, k):
    assert speed_up(accepted, best_length(accepted, cost), cost) >= speed_up(accepted, k, cost)


def test_known_lengths():
    assert best_length(0.9, 0.5) in (2, 3) and best_length(0.9, 0.1) > 5
    assert best_length(0.3, 0.5) == 0 and best_length(0.0, 0.01) == 0
    assert best_length(1.0, 0.5) == MOST


def test_it_follows_what_is_accepted():
    length = DraftLength(0.25)
    assert 1 < length.next(MOST) < MOST
    for _ in range(100):
        k = length.next(MOST)
        length.learn(k, k)
    assert length.next(MOST) == MOST and length.next(2) == 2 and length.next(0) == 0


def test_a_draft_that_does_not_pay_is_tried_now_and_then_and_comes_back():
    length, drafted = DraftLength(0.5), []
    for _ in range(20 * (PAUSE + 1)):
        k = length.next(MOST)
        length.learn(k, 0)
        drafted.append(k)
    assert sum(drafted[PAUSE:]) == 19 and max(drafted[PAUSE:]) == 1
    rounds = 0
    while length.next(MOST) < 2:
        length.learn(1, 1)
        rounds += 1
    assert rounds < 40 * PAUSE


def test_a_fixed_length_is_kept_to_but_for_the_end_of_the_answer():
    length = DraftLength(0.9, fixed=3)
    for most in (8, 3, 2, 0):
        length.learn(3, 0)
        assert length.next(most) == min(3, most)


def test_nothing_is_learnt_of_no_draft():
    length = DraftLength(0.5)
    before = repr(length)
    length.learn(0, 0)
    assert repr(length) == before
