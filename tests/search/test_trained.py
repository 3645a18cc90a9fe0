# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The space inside a trained family: its axes, its order of layers, and every shape of its path."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.search import search, trained_space, uniform_family
from tests.core.test_sizes import families
from tests.search.common import BUDGETS, SMALL, SMALL_AXES, small_space
from tests.search.test_finder import Toy


def made(**changes) -> Family:
    space = small_space()
    members = uniform_family(space, BUDGETS)
    return Family.of(SMALL, members, axes=SMALL_AXES, drop_order=space.whole_drop_order, **changes)


@settings(max_examples=60)
@given(data=st.data())
def test_every_shape_of_any_path_is_in_its_space(data):
    family = data.draw(families())
    shapes = path(family)
    start = shapes[data.draw(st.integers(0, len(shapes) - 1))]
    space = trained_space(family, start)
    assert start in space and family.parent.full in space
    for name, axis in family.axes.items():
        assert set(axis.choices) <= set(space.choices[name])
    inside = space.decode([data.draw(st.integers(0, int(n) - 1)) for n in space.sizes])
    assert inside <= family.parent.full
    inside.validate(family.parent)


def test_an_axis_of_one_width_keeps_one_and_layers_go_in_the_familys_order():
    family = made()
    shapes = path(family)
    start = shapes[len(shapes) // 2]
    space = trained_space(family, start)
    assert {n for n, own in space.per_layer.items() if own} == {n for n, a in SMALL_AXES.items() if a.per_layer}
    assert space.whole_drop_order[:2] == family.drop_order[:2]
    own = {DEPTH: len(start.layers), HIDDEN: start.hidden}
    for name, width in own.items():
        assert set(space.choices[name]) == {*SMALL_AXES[name].choices, width}


def test_members_that_lack_other_layers_than_the_order_says_have_the_last_word():
    small = SMALL.uniform([0, 2, 5, 6, 9, 10], hidden=64)
    family = Family.of(SMALL, {"full": SMALL.full, "small": small})
    assert family.drop_order is None
    assert small in trained_space(family, small)
    assert small in trained_space(replace(family, drop_order=tuple(range(12))), small)


def test_no_shape_loses_all_attention_unless_a_member_did():
    def least(keep: list[int]) -> int:
        small = SMALL.uniform(keep, ffn=256)
        space = trained_space(Family.of(SMALL, {"full": SMALL.full, "small": small}), small)
        return space.smallest.pattern.count("*")

    assert SMALL.pattern[5] == SMALL.pattern[10] == "*"
    assert least([0, 1, 2, 10]) == 1 and least([0, 1, 2, 3]) == 0


@pytest.mark.parametrize("seed", range(2))
def test_a_search_from_the_path_is_never_worse_than_the_path(seed):
    family = made()
    shapes = path(family)
    budget = Budget("task", ratio=0.6)
    start = shapes[shapes.fit(0.6 * family.members[0].parameters)]
    space = trained_space(family, start)
    loss = Toy(space, seed)
    for candidates in (1, 3, 64):
        result = search(space, [budget], loss, candidates, seed, start=start)
        assert result.trace[0].member == start and result.trace[0].origin == "start"
        member = result.members["task"]
        assert loss(member) <= loss(start) and member in space
        assert budget.cost(SMALL, member) <= budget.target(SMALL)
    assert loss(member) < 0.9 * loss(start)
