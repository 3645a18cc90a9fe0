# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranking, sorting and search find in every layout of ranks what one rank finds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.ranking import Ranking, sort
from tests.parallel.compare import rankings_apart
from tests.parallel.forks import measured
from tests.parallel.runs import BLOCK, LENGTH, SHAPE, Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
ONE = Layout()
#: ranks that share a model
SHARED = Layout(tensor=2, sequence=True)
LAYOUTS = (Layout(tensor=2), SHARED, Layout(tensor=4, sequence=True), Layout(tensor=2, data=2), Layout(data=2))
SEARCHED = {
    "shapes": "search",
    "importance": {"samples": 8, "depth_samples": 4},
    "search": {"candidates": 12, "tokens": 256},
}
#: the other ways to measure
FAST = {"importance": {"samples": 4, "ffn": "first", "aggregation": "mean", "depth": "cosine"}}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What one rank and the parts that are named find; what is said and lost besides."""
    from tests.parallel.nemo import parent

    prepare(place, whole=False)
    do(place, *(Job(each.name, "rank", each, changes=SEARCHED) for each in LAYOUTS + (ONE,)
                if each.name in (*parts, ONE.name)))  # fmt: skip
    if "fast" in parts:
        do(place, *(Job(f"fast-{each.name}", "rank", each, changes=FAST) for each in (ONE, SHARED)))
    itself = {"steps": 1, "ranked": None, "changes": SEARCHED}
    results: dict[str, Any] = {"parent": str(parent(place))}
    if "straight" in parts:
        pair = ONE, replace(SHARED, sharded=True)
        results["straight"] = do(place, *(Job(f"straight-{each.tensor}", layout=each, **itself) for each in pair))
    stages = Layout(pipeline=2, teacher=False)
    return results | {"stages": do(place, Job("stages", layout=stages, ends=2, **itself))[0]}


place = measured(measure)


def ranking(place: Path, name: str) -> Ranking:
    return Ranking.load(place / name / "elastic" / "ranking")


def assert_same(place: Path, name: str, wanted: str) -> None:
    """The same orders, members and weights; scores but for rounding: 1 - cosine keeps the size of that of 1."""
    assert rankings_apart(place / name, place / wanted).alike
    actual, other = ranking(place, name), ranking(place, wanted)
    assert (actual.depth, actual.options, actual.provenance) == (other.depth, other.options, other.provenance)
    scores = [[s for s in r.depth_scores if s is not None] for r in (actual, other)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=5e-8)
    for axis, value in other.scores.items():
        np.testing.assert_allclose(actual.scores[axis], value, rtol=1e-5, atol=5e-8, err_msg=axis)


@pytest.mark.parametrize(
    "layout", [pytest.param(x, marks=part(x.name, long=x is not SHARED), id=x.name) for x in LAYOUTS]
)
def test_every_layout_finds_the_orders_members_and_weights_of_one_rank(place: Path, layout: Layout) -> None:
    assert_same(place, layout.name, ONE.name)
    assert json.loads((place / layout.name / "elastic" / "shapes.json").read_text())["report"]["source"] == "search"


def test_one_rank_sorts_as_the_table_of_tensors_says(place: Path, results: dict[str, Any]) -> None:
    """Neurons, heads and channels move; so the weights of other layouts, which are these, were moved too."""
    from tests.support.states import read_checkpoint

    order = ranking(place, ONE.name)
    before, _ = read_checkpoint(results["parent"], order.parent)
    after, _ = read_checkpoint(place / ONE.name / "ranked", order.parent)
    for name, value in sort(before, order).items():
        assert torch.equal(after[name], value), name
        if value.dim() == 2:
            assert not torch.equal(after[name], before[name]), name


def test_only_the_drops_of_the_smallest_depth_are_measured(place: Path) -> None:
    actual = ranking(place, ONE.name)
    layers, depths, head_dims = SHAPE["num_layers"], BLOCK["axes"]["depth"], BLOCK["axes"]["mamba_head_dim"]
    assert actual.options.depth_exact == layers - min(depths) == 2
    assert actual.options.head_channels == min(head_dims) < SHAPE["mamba_head_dim"]
    assert sorted(actual.depth) == list(range(layers)) and None not in actual.depth_scores
    assert actual.provenance == {"samples": 8, "tokens": 8 * LENGTH, "sequences": 8, "length": LENGTH}


@pytest.mark.long
@pytest.mark.part("fast")
def test_other_ways_to_measure_are_those_of_one_rank_too(place: Path) -> None:
    assert_same(place, f"fast-{SHARED.name}", f"fast-{ONE.name}")


@pytest.mark.long
@pytest.mark.part("straight")
def test_training_finds_its_members_itself_in_any_layout(place: Path, results: dict[str, Any]) -> None:
    found = [json.loads((place / f"straight-{n}" / "elastic" / "shapes.json").read_text()) for n in (1, 2)]
    assert found[0]["members"] == found[1]["members"]
    one, two = (run["facts"][0] for run in results["straight"])
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-3)
    assert one["elastic"] == two["elastic"]


def test_pipeline_stages_are_refused_by_name(results: dict[str, Any]) -> None:
    for said in results["stages"]["said"]:
        assert said.splitlines()[-1].startswith("error: pipeline_model_parallel_size: 2 ")
