# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What apply_elastic warns of: what can run and makes no sense."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.plan.stages import PAPER
from tests.hosts.nemo.blocks import NANO_12B as BLOCK
from tests.hosts.nemo.recipe.test_checks import accepted

pytestmark = pytest.mark.nemo


@pytest.mark.parametrize(
    ("router", "steps", "warned"),
    [
        ({}, 999, False),
        ({}, 1000, True),
        ({"freeze_at": 0.67}, 1491, False),  # frozen after 999
        ({"lr": 3e-3}, 5170, False),
        (None, 5170, False),
    ],
)
def test_a_router_that_decides_long_before_it_is_frozen_is_reported(
    router: dict[str, Any] | None, steps: int, warned: bool
) -> None:
    from nemo_elastic.hosts.common.agreement import router_warnings

    block = BLOCK if router is None else BLOCK | {"shapes": "router", "router": router}
    lines = router_warnings(ElasticConfig.from_dict(block), steps)
    freeze = round((router or {}).get("freeze_at", 1.0) * steps)
    line = f"within 200 of the {freeze} steps before shapes are frozen, so later steps teach it nothing"
    assert [line in said for said in lines] == [True] * warned


def test_a_router_is_warned_of_in_the_stage_that_teaches_it(recipe: Any, capsys: Any) -> None:
    recipe.trainer.max_steps = 5170
    for stage in ({}, {"stage": 2, "previous": "one"}):
        accepted(recipe.clone(), BLOCK | {"shapes": "router"}, **stage)
        assert ("before shapes are frozen" in capsys.readouterr().out) is not bool(stage)


@pytest.mark.parametrize(
    ("rate", "warmup", "total", "warned"),
    [
        (1, 60, 6960, ()), (1, 181, 6960, ("warmup",)), (1, 0, 6960, ("warmup",)), (1, 0, 100, ()),
        (1, 500, 30000, ()), (1, 9, 5, ()), (3.1, 60, 6960, ("lr",)), (1 / 3.1, 60, 6960, ("lr",)),
    ],
)  # fmt: skip
def test_a_large_parents_rates_are_held_against_the_curriculums(
    recipe: Any, rate: float, warmup: int, total: int, warned: tuple[str, ...]
) -> None:
    """Far is a factor of three."""
    from nemo_elastic.hosts.common.rules import pace_warnings
    from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe

    recipe.optim.config.lr, recipe.optim.lr_scheduler.warmup_steps = rate * PAPER.lr, warmup
    own = NemoRecipe(recipe)
    lines = pace_warnings(own, 12e9, 1, total)
    assert [line.partition(":")[0] for line in lines] == [own.at(name) for name in warned]
    assert pace_warnings(own, 1e8, 1, total) == []
