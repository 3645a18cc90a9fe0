# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranking, sorting and search find in every layout of ranks what one rank finds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.ranking import Ranking
from tests.parallel.compare import rankings_apart
from tests.parallel.forks import measured
from tests.parallel.runs import Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
ONE = Layout()
#: ranks that share a model
SHARED = Layout(tensor=2, sequence=True)
LAYOUTS = (SHARED, Layout(tensor=2, data=2))
SEARCHED = {
    "shapes": "search",
    "importance": {"samples": 8, "depth_samples": 4},
    "search": {"candidates": 12, "tokens": 256},
}
#: the other ways to measure
FAST = {"importance": {"samples": 4, "hidden": "basis", "ffn": "first", "aggregation": "mean", "depth": "cosine"}}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What one rank and the parts that are named find; what is said and lost besides."""
    prepare(place, whole=False)
    do(place, *(Job(each.name, "rank", each, changes=SEARCHED) for each in LAYOUTS + (ONE,)
                if each.name in (*parts, ONE.name)))  # fmt: skip
    if "fast" in parts:
        do(place, *(Job(f"fast-{each.name}", "rank", each, changes=FAST) for each in (ONE, SHARED)))
    itself = {"steps": 1, "ranked": None, "changes": SEARCHED}
    results: dict[str, Any] = {}
    if "straight" in parts:
        pair = ONE, replace(SHARED, sharded=True)
        results["straight"] = do(place, *(Job(f"straight-{each.tensor}", layout=each, **itself) for each in pair))
    (results["stages"],) = do(place, Job("stages", layout=Layout(pipeline=2, teacher=False), ends=2, **itself))
    return results


place = measured(measure)


@pytest.mark.parametrize(
    "layout", [pytest.param(x, marks=part(x.name, long=x is not SHARED), id=x.name) for x in LAYOUTS]
)
def test_every_layout_finds_the_orders_members_and_weights_of_one_rank(place: Path, layout: Layout) -> None:
    assert rankings_apart(place / layout.name, place / ONE.name).alike
    assert json.loads((place / layout.name / "elastic" / "shapes.json").read_text())["report"]["source"] == "search"


@pytest.mark.long
@pytest.mark.part("fast")
def test_other_ways_to_measure_are_those_of_one_rank_too(place: Path) -> None:
    assert rankings_apart(place / f"fast-{SHARED.name}", place / f"fast-{ONE.name}").alike


@pytest.mark.long
@pytest.mark.part("straight")
def test_training_finds_its_members_itself_in_any_layout(place: Path, results: dict[str, Any]) -> None:
    found = [json.loads((place / f"straight-{n}" / "elastic" / "shapes.json").read_text()) for n in (1, 2)]
    assert found[0]["members"] == found[1]["members"]
    one, two = (run["facts"][0] for run in results["straight"])
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-3)
    assert one["elastic"] == two["elastic"]
    for n, facts in ((1, one), (2, two)):
        assert facts["ranking"] == Ranking.load(place / f"straight-{n}" / "elastic" / "ranking").digest


def test_pipeline_stages_are_refused_by_name(results: dict[str, Any]) -> None:
    for said in results["stages"]["said"]:
        assert said.splitlines()[-1].startswith("error: pipeline_model_parallel_size: 2 ")
