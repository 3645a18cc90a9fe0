# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranking, sorting and search find in every layout of ranks what one rank finds: `rankings.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.ranking import Ranking, sort
from tests.parallel.rankings import LAYOUTS, ONE, SHARED
from tests.parallel.runs import BLOCK, LENGTH, SHAPE
from tests.workers import part, parts, work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rankings")
    work("tests.parallel.rankings", folder, *parts(request))
    return folder


@pytest.fixture(scope="module")
def results(place: Path) -> dict[str, Any]:
    return json.loads((place / "rankings.json").read_text())


def ranking(place: Path, name: str) -> Ranking:
    return Ranking.load(place / name / "elastic" / "ranking")


def searched(place: Path, name: str) -> dict[str, Any]:
    return json.loads((place / name / "elastic" / "shapes.json").read_text())


def assert_same(results: Ranking, wanted: Ranking) -> None:
    """The same orders, to the tie; scores but for rounding, of which 1 - cosine keeps the size of that of 1."""
    assert results.digest == wanted.digest
    assert (results.depth, results.options) == (wanted.depth, wanted.options)
    assert results.provenance == wanted.provenance
    scores = [[s for s in r.depth_scores if s is not None] for r in (results, wanted)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=5e-8)
    assert results.scores.keys() == wanted.scores.keys()
    for name, value in wanted.scores.items():
        np.testing.assert_allclose(results.scores[name], value, rtol=1e-5, atol=5e-8, err_msg=name)


@pytest.mark.parametrize(
    "layout", [pytest.param(x, marks=part(x.name, long=x is not SHARED), id=x.name) for x in LAYOUTS]
)
def test_every_layout_finds_the_orders_members_and_weights_of_one_rank(place: Path, layout: Any) -> None:
    from tests.parallel.compare import held

    assert_same(ranking(place, layout.name), ranking(place, ONE.name))
    ours, theirs = searched(place, layout.name), searched(place, ONE.name)
    assert ours["members"] == theirs["members"]
    assert ours["report"]["source"] == "search"
    weights, wanted = held(place / layout.name / "ranked"), held(place / ONE.name / "ranked")
    assert weights.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(weights[name], value), name


def test_one_rank_sorts_as_the_table_of_tensors_says(place: Path, results: dict[str, Any]) -> None:
    """Neurons, heads and channels move; so the weights of other layouts, which are these, were moved too."""
    from nemo_elastic.formats.megatron.stored import read_checkpoint

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
    assert_same(ranking(place, f"fast-{SHARED.name}"), ranking(place, f"fast-{ONE.name}"))


@pytest.mark.long
@pytest.mark.part("straight")
def test_training_finds_its_members_itself_in_any_layout(place: Path, results: dict[str, Any]) -> None:
    assert searched(place, "straight-1")["members"] == searched(place, "straight-2")["members"]
    assert results["straight-1"]["losses"] == pytest.approx(results["straight-2"]["losses"], rel=1e-3)
    assert results["straight-1"]["elastic"] == results["straight-2"]["elastic"]


def test_pipeline_stages_are_refused_by_name(results: dict[str, Any]) -> None:
    assert results["stages"]["codes"] == [2, 2]
    for said in results["stages"]["said"]:
        assert said.splitlines()[-1].startswith("error: pipeline_model_parallel_size: 2 is not allowed; 1 for ranking")
