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
from tests.parallel.table import FEW, OFTEN, STEPS, SUITE, measure, wrong
from tests.support.figures import largest
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=2)]

NAN = float("nan")


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


@pytest.mark.long
@pytest.mark.part(OFTEN, FEW[0].name)
def test_validations_are_logged_and_change_nothing_of_the_training(results: dict[str, Any]) -> None:
    assert results[OFTEN] == {"steps": list(range(STEPS + 1)), "tags": True, "training": True, "same": True}


def test_the_comparison_can_fail() -> None:
    a, b = torch.ones(4), torch.ones(4)
    b[2] += 1e-2
    assert deviation({"a": b}, {"a": a}, relative=True) == pytest.approx(1e-2, rel=1e-4)
    assert deviation({"a": b}, {"a": a}) > WEIGHT
    with pytest.raises(AssertionError, match="b"):
        deviation({"a": a, "b": a}, {"a": a})


@pytest.mark.parametrize(("values", "most"), [([], 0), ([2.0, 3.0, 1.0], 3), ([1.0, NAN], None), ([NAN, 1.0], None)])
def test_the_largest_is_no_number_where_one_is_none(values: list[float], most: float | None) -> None:
    assert largest(values) == most if most is not None else largest(values) != largest(values)
    assert most is not None or wrong(Layout(), {"loss": largest(values)}), "which no limit allows"
