# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router at the ends of what its block allows: numbers stay finite, and a choice that is made stays made."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.kinds.registry import AXES, HIDDEN
from nemo_elastic.router import Router
from nemo_elastic.search import Space
from tests.search.common import BUDGETS, small_space
from tests.shapes import PARENT

LEAST, MOST = 1e-6, 1e6  # of tau and of scale, see RouterConfig


def gradients(router: Router, budget: int, tau: float, scale: float) -> list[torch.Tensor]:
    """Of everything that a soft micro-batch differentiates: gates, and the budget loss."""
    routed = router.gates(budget, tau, scale, noise=(3, 1))
    touched = [routed.gates.hidden, *(t for x in routed.gates.layers for t in (x.keep, *x.widths.values()))]
    loss = sum(t.square().sum() for t in touched) + router.budget_loss(routed, budget)
    loss.backward()
    assert all(bool(t.isfinite().all()) for t in touched)
    return [p.grad for p in router.parameters() if p.grad is not None]


@pytest.mark.parametrize("weights", [0.0, 1e-30, 1e4])
@pytest.mark.parametrize(("tau", "scale"), [(LEAST, MOST), (MOST, LEAST)])
def test_gradients_are_finite_at_every_extreme(weights: float, tau: float, scale: float) -> None:
    router = Router(small_space(), BUDGETS, RouterConfig(gate="hard", hidden=8), 0)
    with torch.no_grad():
        for p in router.parameters():
            p.copy_(p.sign() * weights)
    for budget in range(len(BUDGETS)):
        router.zero_grad()
        actual = gradients(router, budget, tau, scale)
        assert actual
        assert all(bool(g.isfinite().all()) for g in actual)
        assert all(bool(p.isfinite().all()) for p in router.probabilities(budget, tau, scale, noise=(0, 0)).values())


def test_one_choice_only_leaves_nothing_to_learn_and_nothing_to_break() -> None:
    """A block may have a single axis with a single choice beside the parent's: the budget loss is all there is."""
    own = {name: AxisConfig((PARENT.num_layers if name == "depth" else PARENT.axis(name).size,)) for name in AXES}
    half = AxisConfig((PARENT.hidden, PARENT.hidden // 2))
    space = Space(PARENT, own | {HIDDEN: half}, list(range(PARENT.num_layers)))
    router = Router(space, (Budget("full"), Budget("small", ratio=0.6)), RouterConfig(hidden=8), 0)
    actual = gradients(router, 1, 0.05, 10.0)
    assert all(bool(g.isfinite().all()) for g in actual)
    whole = Space(PARENT, own, list(range(PARENT.num_layers)))
    rigid = Router(whole, (Budget("full"),), RouterConfig(hidden=8), 0)
    assert list(rigid.parameters()) == []
    assert rigid.choose(0) == PARENT.full
    assert float(rigid.budget_loss(rigid.gates(0, 1.0, 1.0, noise=(0, 0)), 0)) == 0.0
