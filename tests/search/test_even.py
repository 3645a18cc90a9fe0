# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The even cut: against all members, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemo_elastic.core.budget import Budget
from nemo_elastic.search import Space, uniform, uniform_family
from nemo_elastic.search.even import FREE_MISS, MISS_WEIGHT
from tests.search.common import NANO, nano_space, spaces

some = settings(max_examples=40)


def score(space: Space, budget: Budget, member) -> float:
    """The rule of the docstring, written out."""
    code = space.encode(member)
    shares = [
        space.choices[axis][space.index(code, axis, space.slots[space.positions(axis)[0]].layer)] / choices[0]
        for axis, choices in space.choices.items()
        if space.positions(axis)
    ]
    spread = max(shares) - min(shares) if shares else 0.0
    used = [limit.share(space.parent, member) for limit in budget.limits]
    return spread + MISS_WEIGHT * sum(max(0.0, 1 - share - FREE_MISS) for share in used)


@some
@given(space=spaces(max_layers=4), ratio=st.floats(0.2, 1.0), served=st.none() | st.floats(0.2, 1.0))
def test_no_even_member_is_more_even_nor_nearer(space, ratio, served):
    budget = Budget("some", ratio=ratio)
    if served is not None:
        own = {"batch": 8, "length": 4096}
        size = Budget("x", memory={"size": 1, **own}).cost(space.parent, space.full)
        budget = Budget("some", ratio=ratio, memory={"size": max(1, int(served * size)), **own})
    price = space.price(budget)
    assume(price(space.smallest) <= price.target)
    result = uniform(space, budget)
    assert budget.cost(space.parent, result) <= budget.target(space.parent)
    axes = [a for a in space.choices if space.positions(a)]
    best = min(
        score(space, budget, member)
        for pick in itertools.product(*(range(len(space.choices[a])) for a in axes))
        for member in [space.decode([dict(zip(axes, pick))[s.axis] for s in space.slots])]
        if budget.cost(space.parent, member) <= budget.target(space.parent)
    )
    code = space.encode(result)
    kept = {s.axis: code[i] for i, s in enumerate(space.slots)}
    # a dropped layer's axis says nothing about the member, so the axis itself is compared where it has layers
    if all(any(space.active(code)[i] for i in space.positions(a)) for a in kept):
        assert score(space, budget, result) == pytest.approx(best, abs=1e-8)


def test_even_family_of_the_12b_is_nested_and_near_its_budgets():
    space = nano_space()
    family = uniform_family(space, NANO.budgets)
    assert list(family) == ["12b", "9b", "6b"]
    assert family["6b"] <= family["9b"] <= family["12b"] == space.full
    for budget in NANO.budgets:
        assert 0 <= 1 - budget.cost(space.parent, family[budget.name]) / budget.target(space.parent) < 0.02
    assert all(m.is_uniform for m in family.values())
