# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of a ranking: a plot for each axis, and what it says is what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking, RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.report.drawing import house
from nemo_elastic.report.fig_importance import _of, draw
from nemo_elastic.report.run_record import RunRecord
from tests.report.fabricate import PARENT, make_ranking, make_subnets
from tests.shapes import MOE

RANKING = make_ranking()


@pytest.fixture(autouse=True)
def in_the_house() -> Iterator[None]:
    with house():
        yield


def plots(ranking: Ranking, run: RunRecord | None = None) -> dict[str, Axes]:
    run = run or RunRecord(Path("run"))
    run.ranking = ranking
    drawing = draw(run)
    assert drawing is not None and drawing.title == "What matters in the parent"
    return {axes.get_title(loc="left"): axes for axes in drawing.figure.axes if axes.axison}


def test_without_a_ranking_that_measured_anything_there_is_no_picture() -> None:
    run = RunRecord(Path("run"))
    assert draw(run) is None
    run.ranking = replace(RANKING, scores={name: np.zeros_like(s) for name, s in RANKING.scores.items()})
    assert draw(run) is None


def test_every_axis_of_the_parent_has_a_plot() -> None:
    actual = set(plots(RANKING))
    assert actual == {
        "hidden channels",
        "FFN neurons",
        "depth",
        "Mamba heads",
        "Mamba head channels",
        "attention heads",
    }


def test_the_curve_of_channels_falls_from_the_best() -> None:
    (line,) = plots(RANKING)["hidden channels"].get_lines()
    y = np.asarray(line.get_ydata())
    assert y.tolist() == np.sort(RANKING.scores["hidden"])[::-1].tolist()


def test_members_are_marked_where_their_width_is_cut() -> None:
    run = RunRecord(Path("run"))
    run.family = Family.of(PARENT, make_subnets(PARENT, RANKING), budgets=(Budget("1.6m"),))
    axes = plots(RANKING, run)["hidden channels"]
    report = {text.get_text(): float(text.xy[0]) for text in axes.texts}  # pyright: ignore[reportAttributeAccessIssue]
    assert report == {"1.1m": 112.5, "0.8m": 96.5}


def test_layers_stand_in_the_order_in_which_they_are_dropped() -> None:
    axes = plots(RANKING)["depth"]
    assert [int(label.get_text().split("\n")[1]) for label in axes.get_xticklabels()] == list(RANKING.depth)
    heights = [patch.get_height() for patch in axes.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert heights[:-1] == pytest.approx(RANKING.depth_scores[:-1])


def test_a_layer_that_was_not_measured_is_hatched() -> None:
    bars = plots(RANKING)["depth"].patches
    assert [bool(bar.get_hatch()) for bar in bars] == [score is None for score in RANKING.depth_scores]


@pytest.mark.parametrize(("depth", "words"), [("mse", "logit change (MSE)"), ("cosine", "1 − cosine")])
def test_the_measure_of_depth_is_named(depth: str, words: str) -> None:
    ranking = replace(RANKING, options=replace(RANKING.options, depth=depth))
    assert plots(ranking)["depth"].get_ylabel() == words


def test_an_axis_that_the_parent_has_not_got_is_said_to_be_none() -> None:
    parent = Parent(pattern="M", hidden=8, vocab=16, mamba_heads=2, mamba_head_dim=4, mamba_groups=1, state=4)
    run = RunRecord(Path("run"), ranking=replace(make_ranking(parent), depth_scores=(None,)))
    drawing = draw(run)
    assert drawing is not None
    (empty,) = [axes for axes in drawing.figure.axes if axes.get_title(loc="left") == "depth"]
    assert [text.get_text() for text in empty.texts] == ["none in this parent"]


def test_experts_have_a_row_for_each_layer_and_their_neurons_the_mean_over_experts() -> None:
    model = NemotronH.random(MOE, seed=1)
    tokens = torch.randint(MOE.vocab, (2, 16), generator=torch.Generator().manual_seed(0))
    ranking = rank(Layers(model.weights()), MOE, [tokens], RankOptions(depth_samples=1))
    actual = dict(_of(ranking, "expert_ffn"))
    expected = np.sort(ranking.scores["expert_ffn.4"])[:, ::-1].mean(0)
    np.testing.assert_allclose(actual[4], expected)
    shown = plots(ranking)
    assert {"experts", "expert FFN width", "shared expert FFN width"} <= set(shown)
    assert [label.get_text() for label in shown["experts"].get_yticklabels()] == ["1", "4"]
