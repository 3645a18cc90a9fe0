# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's own recipes of Nemotrons: what `apply_elastic` says of each, and that those it takes can train."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.stock import ACCEPTED, HUB, Outcome, check_steps, markdown
from tests.workers import ROOT, work

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
from tests.support.bridge import import_bridge

import_bridge()


@pytest.fixture(scope="module")
def results() -> list[Outcome]:
    from tests.hosts.bridge.stock import outcomes

    return list(outcomes())


def test_the_table_in_the_documentation_is_what_apply_elastic_says(results: list[Outcome]) -> None:
    stored = (ROOT / "docs" / "tables" / "stock_bridge.md").read_text(encoding="utf-8")
    assert markdown(results) == stored, "make recipe-tables"


def test_no_recipe_ends_otherwise_than_by_a_line(results: list[Outcome]) -> None:
    """What neither asks a hub nor is refused by an ElasticError raised above; all the packages' names are there."""
    import megatron.bridge.recipes.nemotronh as stock

    from tests.hosts.bridge.stock import recipes

    made = recipes()
    assert {getattr(stock, name) for name in stock.__all__} <= set(made.values())
    assert {one.recipe for one in results} == made.keys()
    assert all(("nvidia/" in one.line) == (one.verdict == HUB) for one in results)


@pytest.mark.slow(minutes=3)
@pytest.mark.dist
def test_every_accepted_recipe_takes_a_step_at_small_scale(results: list[Outcome], tmp_path: Path) -> None:
    work("tests.support.bridge", "-m", "tests.hosts.bridge.stock", "--steps", tmp_path)
    check_steps(tmp_path, [one.recipe for one in results if one.verdict == ACCEPTED], steps=1)
