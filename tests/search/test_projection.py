# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Projection: nested, never above the budget, near it, and no further from the choice than it must be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemo_elastic.core.budget import Budget
from nemo_elastic.errors import ElasticError
from nemo_elastic.search import project, project_family
from nemo_elastic.search.projection import TOLERANCE, fit
from tests.search.common import BUDGETS, NANO, codes, nano_space, small_space, spaces

some = settings(max_examples=60)


@some
@given(data=st.data(), space=spaces(), ratio=st.floats(0.1, 1.0))
def test_any_choice_becomes_a_nested_member_within_its_budget(data, space, ratio):
    budget = Budget("some", ratio=ratio)
    price = space.price(budget)
    assume(price(space.smallest) <= price.target)
    raw, upper = (space.decode(data.draw(codes(space))) for _ in range(2))
    done = project(space, raw, budget, upper)
    assert done.member <= upper and done.member in space
    assert done.cost == budget.cost(space.parent, done.member) <= done.target == budget.target(space.parent)
    assert done.raw_cost == budget.cost(space.parent, raw)
    assert done.miss == done.cost / done.target - 1 <= 0 and done.raw_miss == done.raw_cost / done.target - 1
    assert done.nested == (raw <= upper)


@some
@given(data=st.data(), space=spaces(), ratio=st.floats(0.1, 1.0))
def test_nothing_that_fits_could_still_be_added(data, space, ratio):
    """No single larger choice of any slot fits below the budget once the miss matters."""
    budget = Budget("some", ratio=ratio)
    price = space.price(budget)
    assume(price(space.smallest) <= price.target)
    raw = space.decode(data.draw(codes(space)))
    done = project(space, raw, budget)
    if -done.miss <= TOLERANCE:
        return
    code = np.array(space.encode(done.member))
    for slot in np.flatnonzero(space.active(code)):
        for i in range(code[slot]):
            larger = code.copy()
            larger[slot] = i
            cost = price.codes(larger)[0]
            assert cost > price.target or cost <= done.cost


@some
@given(data=st.data(), space=spaces(), ratio=st.floats(0.1, 1.0))
def test_a_lower_member_stays_inside(data, space, ratio):
    budget = Budget("some", ratio=ratio)
    price = space.price(budget)
    lower = data.draw(codes(space))
    assume(price.codes(np.array([lower]).reshape(1, -1))[0] <= price.target)
    result = space.decode(fit(space, price, data.draw(codes(space)), (0,) * len(space.slots), lower))
    assert space.decode(lower) <= result and price(result) <= price.target


@pytest.mark.parametrize("seed", range(10))
def test_in_a_fine_space_members_come_within_half_a_percent(seed):
    """Hard choices of a router missed by up to 15 %. Twelve layers of few choices allow for one percent."""
    for space, budgets, most in ((nano_space(), NANO.budgets, 0.005), (small_space(), BUDGETS, 0.01)):
        rng = np.random.default_rng(seed)
        raw = {b.name: space.decode(rng.integers(0, space.sizes)) for b in budgets}
        family = project_family(space, raw, budgets)
        members = [family[b.name].member for b in budgets]
        assert members[2] <= members[1] <= members[0] == space.full
        assert all(-most < family[b.name].miss <= 0 for b in budgets[1:]), [p.miss for p in family.values()]


def test_a_choice_that_is_right_already_stays():
    space = small_space()
    raw = project(space, space.full, BUDGETS[1]).member
    again = project(space, raw, BUDGETS[1])
    assert again.member == raw and again.nested


@pytest.mark.parametrize("seed", range(10))
def test_choices_that_nest_and_meet_their_budgets_are_only_added_to(seed):
    """A swap in the larger one for a fraction of a percent once tore apart the smaller one, which no longer nested."""
    space = small_space()
    rng, middle, small = np.random.default_rng(seed), *BUDGETS[1:]
    raw = {middle.name: project(space, space.decode(rng.integers(0, space.sizes)), middle).member}
    raw[small.name] = project(space, space.decode(rng.integers(0, space.sizes)), small, raw[middle.name]).member
    # a little below the budgets, as what a search finds in a coarse space
    looser = [
        BUDGETS[0],
        *(replace(b, ratio=space.price(b)(raw[b.name]) / space.price(b).whole * 1.015) for b in BUDGETS[1:]),
    ]
    family = project_family(space, raw, looser)
    for name, chosen in raw.items():
        assert chosen <= family[name].member and family[name].nested
        assert -0.016 < family[name].raw_miss < -0.014
    assert family[small.name].member <= family[middle.name].member


def test_repair_prefers_many_small_changes_to_a_large_one():
    """A raw choice 3 % over its budget loses some widths of single layers, not the residual width nor layers."""
    space = small_space()
    raw = project(space, space.full, Budget("x", ratio=0.741)).member
    done = project(space, raw, BUDGETS[1])
    assert done.member.hidden == raw.hidden and done.member.kept == raw.kept
    assert 0.02 < done.raw_miss < 0.04 and -0.005 < done.miss <= 0


def test_projection_is_deterministic_and_reports_in_json():
    import json

    space = small_space()
    raw = {b.name: space.decode(np.random.default_rng(1).integers(0, space.sizes)) for b in BUDGETS}
    one, two = (project_family(small_space(), raw, BUDGETS) for _ in range(2))
    assert one == two
    report = json.loads(json.dumps(one["small"].to_json()))
    assert report["cost"] <= report["target"] and report["member"]["hidden"] == one["small"].member.hidden
    assert one["full"].raw == one["full"].member == space.full


def test_unreachable_budgets_are_reported():
    space = small_space()
    with pytest.raises(ElasticError, match="nearest cost that the axes reach"):
        project(space, space.full, Budget("none", ratio=0.01))
