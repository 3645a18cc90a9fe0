# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A host's own recipes of Nemotrons: what `apply_elastic` says of each, and that those it takes can train."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.hosts.here import HERE, ON_BRIDGE, work_here
from tests.hosts.stock import ACCEPTED, HUB, REFUSED, Outcome, check_steps

pytestmark = pytest.mark.nemo
stock = importlib.import_module(f"tests.hosts.{HERE}.stock")
#: verdict -> recipes that have it; the first that matches counts, and all others are accepted
VERDICTS = {
    HUB: r"super|ultra|lightning_(sft|peft)|nano_(gb200_pretrain|peft|sft)_config",
    REFUSED: r"peft|lightning|12b_v2_sft",
}


@pytest.fixture(scope="module")
def results() -> list[Outcome]:
    return list(stock.outcomes())


def test_recipes_are_accepted_and_changed_or_refused(results: list[Outcome]) -> None:
    for one in results:
        matching = (verdict for verdict, names in VERDICTS.items() if re.search(names, one.recipe))
        assert one.verdict == next(matching, ACCEPTED), one
        assert one.verdict != ACCEPTED or one.changes.keys() >= stock.CHANGED, one
        assert one.verdict != REFUSED or " is not allowed" in one.line


@pytest.mark.skipif(not ON_BRIDGE, reason="NeMo's are listed by hand")
def test_no_recipe_ends_otherwise_than_by_a_line(results: list[Outcome]) -> None:
    """What neither asks a hub nor is refused by an ElasticError raised above; all the packages' names are there."""
    import megatron.bridge.recipes.nemotronh as package

    made = stock.recipes()
    assert {getattr(package, name) for name in package.__all__} <= set(made.values())
    assert {one.recipe for one in results} == made.keys()
    assert all(("nvidia/" in one.line) == (one.verdict == HUB) for one in results)


@pytest.mark.skipif(not ON_BRIDGE, reason="rehearsals train NeMo's")
@pytest.mark.long
@pytest.mark.slow(minutes=3)
@pytest.mark.dist
def test_every_accepted_recipe_takes_steps_at_small_scale(results: list[Outcome], tmp_path: Path) -> None:
    work_here(stock.__name__, tmp_path)
    check_steps(tmp_path, [one.recipe for one in results if one.verdict == ACCEPTED], stock.STEPS)
