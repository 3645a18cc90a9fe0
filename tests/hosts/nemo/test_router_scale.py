# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The routers of the large recipes learn, under each recipe's own optimizer and beside a model that is clipped.

Adam's epsilon there is 1e-5: gradients of the router, 1e-3 at most, must reach it unscaled.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workers import part, parts, work

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
STEPS = 200
RECIPES = ("nemotron_elastic_12b", "nemotron_elastic_9b", "nemotron_elastic_8b")
EACH = pytest.mark.parametrize("recipe", [pytest.param(r, marks=part(r, long=r != RECIPES[-1])) for r in RECIPES])


@pytest.fixture(scope="module")
def learned(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(work("tests.hosts.nemo.router_scale_worker", STEPS, *parts(request)).splitlines()[-1])


@EACH
def test_half_a_nat_for_the_full_hidden_size_is_followed(learned: dict[str, Any], recipe: str) -> None:
    actual = learned[recipe]["hidden"]
    assert actual["eps"] == 1e-5, "the recipe's optimizer is not the one that this test is about"
    assert actual["freeze"] > STEPS
    assert actual["moved"] > 1 and actual["full"] == 1, actual


@EACH
def test_a_quarter_of_a_nat_for_wider_ffns_moves_the_logits(learned: dict[str, Any], recipe: str) -> None:
    """Whether the choice changes, too, is up to the budget: other axes have to pay for it."""
    actual = learned[recipe]["ffn"]
    assert actual["moved"] > 1 and actual["changed"] == actual["wider"], actual


@EACH
def test_the_model_is_clipped_by_its_own_norm(learned: dict[str, Any], recipe: str) -> None:
    """The router counts neither in the norm that is logged nor in the limit."""
    for actual in learned[recipe].values():
        assert actual["norm"] == pytest.approx(50.0, rel=1e-3)
