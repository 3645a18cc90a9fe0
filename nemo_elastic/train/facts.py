# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a step measured, by the names under which it is logged."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_elastic.router import Router

from .training import FamilyTraining

__all__ = ["step_facts_of"]


def step_facts_of(family: FamilyTraining, losses: Mapping[int, float]) -> dict[str, float]:
    """Losses of the budgets that the last step drew, and of the router where it had a part in it.

    Args:
        family: that was trained.
        losses: mean of each budget that was drawn, by its index.
    """
    names = [b.name for b in family.config.budgets]
    facts = {f"loss_{names[i]}": loss for i, loss in losses.items()}
    router = family.last_router
    if router and not family.members.is_frozen:
        budget = router["budget"]
        cost = float(family.config.budgets[budget].cost(family.parent, router["routed"].expected))
        target = family.config.targets(family.parent)[names[budget]]
        facts |= {f"cost_{names[budget]}": cost / target, "router_tau": router["tau"], "router_scale": router["scale"]}
        entropies = Router.entropy(router["routed"].probabilities)
        facts |= {f"entropy_{axis}": float(entropy) for axis, entropy in entropies.items()}
    return facts
