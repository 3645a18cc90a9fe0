# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router under several limits: their expected costs, gradients and losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import Budget
from nemo_elastic.search import Space, uniform_family
from tests.search.common import BUDGETS, small_space, spaces
from tests.shapes import NANO_30B
from tests.support.expected import expected_member

from .test_router import one_hot, router_of, some

ROOT = Path(__file__).parents[2]


def of_two(space, ratio, share, weights="bf16") -> Budget:
    """Parameters, and memory of long sequences, each a share of the parent's."""
    how = {"batch": 8, "length": 4096, "weights": weights}
    served = Budget("x", memory={"size": 1, **how})
    whole = served.cost(space.parent, space.full)
    assume(share < 1 or whole == int(whole))  # in nvfp4 the costs of a few weights are no whole bytes, as limits are
    size = int(share * whole)
    return Budget("two", ratio=ratio, memory={"size": size, **how})


@some
@given(space=spaces(), seed=st.integers(0, 9), weights=st.sampled_from(["bf16", "nvfp4"]))
def test_each_of_several_limits_has_its_own_expected_cost(space, seed, weights):
    """In nvfp4 layers of a type differ: those before attention stay in bf16."""
    budget = of_two(space, 1.0, 1.0, weights)
    router = router_of(space, (Budget("full"), budget), seed)
    pi = router.probabilities("two", noise=(0, seed))
    slow = [float(limit.share(space.parent, expected_member(space, pi))) for limit in budget.limits]
    assert router.expected_cost(pi, 1).tolist() == pytest.approx(slow, rel=1e-6)


def test_every_limit_has_its_loss_and_none_is_pulled_up_while_another_is_exceeded():
    space = small_space()
    code = space.encode(uniform_family(space, BUDGETS)["large"])
    pi, used = one_hot(space, code), of_two(space, 1.0, 1.0)
    params, memory = (float(limit.share(space.parent, space.decode(code))) for limit in used.limits)

    def loss(ratio, share) -> float:
        router = router_of(space, (Budget("full"), of_two(space, ratio, share)))
        return float(router.budget_loss(pi, "two"))

    above, below = 1 / 1.1, 1 / 0.9  # limits that the choice exceeds by a tenth, or leaves a tenth of
    assert loss(params * above, memory * above) == pytest.approx(0.2, rel=1e-4)
    assert loss(params * above, memory * below) == pytest.approx(0.1, rel=1e-4)
    assert loss(params * below, memory * above) == pytest.approx(0.1, rel=1e-4)
    assert loss(params * below, memory * below) == pytest.approx(0.2, rel=1e-4)


def test_the_budget_loss_alone_finds_a_member_of_both_counts_of_the_30b():
    """No weight is set between the two: the member of the largest logits is near both before it is projected."""
    config = ElasticConfig.load(ROOT / "conf" / "elastic_30b_a3b.yaml")
    parent = config.parent_shape(NANO_30B)
    router = router_of(Space(parent, config.resolve_axes(parent)), config.budgets)
    optimizer = torch.optim.Adam(router.parameters(), 1e-2)
    for step in range(200):
        optimizer.zero_grad()
        tau, scale = router.schedule(step / 200)
        sum(router.budget_loss(router.gates(n, tau, scale, noise=(step, 0)), n) for n in ("23b", "12b")).backward()
        optimizer.step()
    for name, done in router.family().items():
        for figures in done.limits.values():
            assert abs(figures["raw_cost"] / figures["target"] - 1) < 0.15, name
            assert 0.9 < figures["cost"] / figures["target"] <= 1, name
