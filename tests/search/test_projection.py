# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Projection: nested, never above the budget, near it, and no further from the choice than it must be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import Budget
from nemo_elastic.search import Space, project, project_family
from nemo_elastic.search.projection import fit
from tests.search.common import BUDGETS, NANO, codes, nano_space, small_space, spaces
from tests.shapes import NANO_30B

ROOT = Path(__file__).parents[2]
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
    assert json.loads(json.dumps(done.to_json()))["cost"] == done.cost


def of_several(space, shares) -> Budget:
    """Parameters, and memory of long sequences, of which the cache takes a part."""
    served = Budget("served", memory={"size": 1, "batch": 4, "length": 4096})
    size = max(1, round(shares[1] * served.cost(space.parent, space.full)))
    return Budget("some", ratio=shares[0], memory={"size": size, "batch": 4, "length": 4096})


@some
@given(
    data=st.data(), space=spaces(), several=st.booleans(), shares=st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0))
)
def test_each_limit_is_used_as_far_as_it_can_be(data, space, several, shares):
    """No single larger choice of any slot fits below the budget."""
    budget = of_several(space, shares) if several else Budget("some", ratio=shares[0])
    price = space.price(budget)
    assume(price(space.smallest) <= price.target)
    done = project(space, space.decode(data.draw(codes(space))), budget)
    code = np.array(space.encode(done.member))
    now = price.each(code)[0]
    for slot in np.flatnonzero(space.active(code)):
        for i in range(code[slot]):
            larger = code.copy()
            larger[slot] = i
            cost = price.each(larger)[0]
            assert (cost > price.target).any() or cost.sum() <= now.sum()


def test_choices_of_the_30b_end_near_both_of_its_counts():
    """Experts are full of parameters and a token meets few of them: they are given for what a token meets."""
    config = ElasticConfig.load(ROOT / "conf" / "elastic_30b_a3b.yaml")
    parent = config.parent_shape(NANO_30B)
    space, rng = Space(parent, config.resolve_axes(parent)), np.random.default_rng(0)
    for budget in config.budgets[1:]:
        raw = [space.decode(rng.integers(0, space.sizes)) for _ in range(12)]
        done = [project(space, member, budget).limits for member in raw]
        used = np.array([[limit["cost"] / limit["target"] for limit in limits.values()] for limits in done])
        assert (used <= 1).all() and (used.mean(axis=0) > 0.95).all() and (used.max(axis=1) > 0.97).all()
    # all experts, and all else so narrow that a token meets too little
    wide = parent.uniform(hidden=1856, shared_ffn=2176, expert_ffn=1088)
    params, active = project(space, wide, config.budgets[2]).limits.values()
    assert params["raw_cost"] > params["target"] >= params["cost"] > 0.97 * params["target"]
    assert active["raw_cost"] < 0.95 * active["target"] < 0.97 * active["target"] < active["cost"]


@some
@given(data=st.data(), space=spaces(), ratio=st.floats(0.1, 1.0))
def test_a_lower_member_stays_inside(data, space, ratio):
    budget = Budget("some", ratio=ratio)
    price = space.price(budget)
    lower = data.draw(codes(space))
    assume(price.codes(np.array([lower]).reshape(1, -1))[0] <= price.target)
    result = space.decode(fit(space, price, data.draw(codes(space)), (0,) * len(space.slots), lower))
    assert space.decode(lower) <= result and price(result) <= price.target


@pytest.mark.parametrize("seed", range(3))
def test_in_a_fine_space_members_come_within_half_a_percent(seed):
    """Hard choices of a router missed by up to 15 %. Twelve layers of few choices leave two percent."""
    for space, budgets, most in ((nano_space(), NANO.budgets, 0.005), (small_space(), BUDGETS, 0.025)):
        rng = np.random.default_rng(seed)
        raw = {b.name: space.decode(rng.integers(0, space.sizes)) for b in budgets}
        family = project_family(space, raw, budgets)
        members = [family[b.name].member for b in budgets]
        assert members[2] <= members[1] <= members[0] == space.full
        assert all(-most < family[b.name].miss <= 0 for b in budgets[1:]), [p.miss for p in family.values()]


@pytest.mark.parametrize("seed", range(3))
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
