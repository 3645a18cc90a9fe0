# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts of ranks train what one rank trains: those of `table.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from tests.parallel.compare import WEIGHT, deviation
from tests.parallel.forks import measured
from tests.parallel.runs import Layout
from tests.parallel.table import FEW, REFUSED, SUITE, measure, wrong
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=2)]


def each(layouts: Iterable[Layout], *more: str) -> pytest.MarkDecorator:
    """A case for each layout; those that are not of the few are long."""
    return pytest.mark.parametrize(
        "layout", [pytest.param(x, marks=part(x.name, *more, long=x not in FEW), id=x.name) for x in layouts]
    )


place = measured(measure)


@each(SUITE)
def test_a_layout_trains_what_one_rank_trains(results: dict[str, Any], layout: Layout) -> None:
    assert wrong(layout, results[layout.name]) == []


@each([x for x in SUITE if x.clip < 1], Layout(tensor=2, soft=True).name)
def test_the_routers_clipping_is_the_same_whatever_shards_it(results: dict[str, Any], layout: Layout) -> None:
    # the average of two gradients, at the optimizer's 0.9; without clipping it is larger
    assert 0 < results[layout.name]["router"] <= (1 - 0.9**2) * layout.clip * (1 + 1e-3)
    assert results[Layout(tensor=2, soft=True).name]["router"] > 2 * layout.clip


def test_what_differs_is_said() -> None:
    fine = {"samples": True, "budgets": True, "replicas": True, "loss": 0, "weight": 0, "gradient": 0, "members": 0}
    assert wrong(Layout(), fine) == []
    for name, value in (
        ("samples", False), ("loss", 2e-4), ("weight", 1e-2), ("gradient", 1e-3), ("members", 1e-3),
    ):  # fmt: skip
        assert len(wrong(Layout(), fine | {name: value})) == 1
    assert wrong(Layout(half=True), fine | {"loss": 1e-3}) == []
    assert len(wrong(Layout(half=True), fine | {"gradient": 0.1, "single": 0.1})) == 2
    assert wrong(Layout(), {"error": "a rank died"}) == ["a rank died"]


@pytest.mark.parametrize("what", [pytest.param(what, marks=part(what)) for what in REFUSED])
def test_what_cannot_run_is_refused_with_a_line(results: dict[str, Any], what: str) -> None:
    name, value, _ = REFUSED[what]
    assert results[what]["line"].startswith(f"recipe.trainer.strategy.{name}: {value!r} is not allowed")


def test_the_comparison_can_fail() -> None:
    a, b = torch.ones(4), torch.ones(4)
    b[2] += 1e-2
    assert deviation({"a": b}, {"a": a}, relative=True) == pytest.approx(1e-2, rel=1e-4)
    assert deviation({"a": b}, {"a": a}) > WEIGHT
    with pytest.raises(AssertionError, match="b"):
        deviation({"a": a, "b": a}, {"a": a})
