# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of a router's decisions: what it logged, up to the step that froze the shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from nemo_elastic.report.drawing import Drawing, house
from nemo_elastic.report.fig_router import draw, smooth
from nemo_elastic.report.run_record import Phase, RunRecord, ShapeHistory
from tests.shapes import PARENT


@pytest.fixture(autouse=True)
def in_the_house() -> Iterator[None]:
    with house():
        yield


def line(step: int) -> dict[str, Any]:
    return {
        "kind": "step", "step": step, "tokens": step, "router_tau": 1 / step, "router_scale": float(step),
        "entropy_hidden": 1 - step / 40, "cost_small": 1.3 - step / 100,
    }  # fmt: skip


def run(*lines: Mapping[str, Any], frozen: int | None = None) -> RunRecord:
    phase = Phase("stage1", "stage 1", lines, ())
    return RunRecord(Path("run"), phases=(phase,), shapes=ShapeHistory(step=frozen))


def drawn(record: RunRecord) -> Drawing:
    drawing = draw(record)
    assert drawing is not None
    return drawing


def lines_of(figure: Figure, axes: int) -> list[tuple[list[float], list[float]]]:
    return [(list(x.get_xdata()), list(x.get_ydata())) for x in figure.axes[axes].get_lines()]  # pyright: ignore


STEPS = [line(step) for step in range(1, 31)]


def test_a_run_without_a_router_has_no_picture() -> None:
    assert draw(RunRecord(Path("run"))) is None
    assert draw(run({"kind": "step", "step": 1, "tokens": 1, "loss": 3.0})) is None


def test_each_of_several_limits_has_a_line_beside_the_one_that_is_used_most() -> None:
    both = [
        x | {"limit_params_small": x["cost_small"] / 2, "limit_active_params_small": x["cost_small"]} for x in STEPS
    ]
    _, most, *limits, _ = lines_of(drawn(run(*both)).figure, 1)
    assert [y[0] for _, y in limits] == [most[1][0] / 2, most[1][0]] and all(x == most[0] for x, _ in limits)
    assert len(lines_of(drawn(run(*STEPS)).figure, 1)) == 3


def test_it_shows_what_was_logged_and_its_running_mean() -> None:
    figure = drawn(run(*STEPS)).figure
    (x, raw), (_, mean) = lines_of(figure, 0)
    assert x == list(range(1, 31)) and raw == [1 - step / 40 for step in x] and mean == pytest.approx(smooth(raw))
    assert lines_of(figure, 2)[0] == (x, [1 / step for step in x])


def test_costs_are_shown_against_their_target() -> None:
    axes = drawn(run(*STEPS)).figure.axes[1]
    assert any(list(x.get_ydata()) == [1.0, 1.0] for x in axes.get_lines())  # pyright: ignore
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["small  1.00"]


def test_what_is_logged_after_shapes_were_frozen_is_left_out() -> None:
    drawing = drawn(run(*STEPS, frozen=20))
    assert drawing.words.endswith("Shapes were frozen at step 20.")
    assert max(lines_of(drawing.figure, 0)[0][0]) == 20 == drawing.figure.axes[0].get_xlim()[1]


def test_what_is_said_of_its_choices_is_what_was_logged() -> None:
    assert (
        drawn(run(*STEPS)).more
        == "The mean entropy of its choices was 0.97 of uniform at the start and 0.25 at the end."
    )
    still = [{**line(step), "entropy_hidden": 0.99} for step in range(1, 31)]
    assert "0.99 of uniform at the start and 0.99 at the end" in drawn(run(*still)).more
    small, other = PARENT.uniform(hidden=8), PARENT.uniform(hidden=12)
    for frozen, message in (({"a": small, "b": small}, "changed none."), ({"a": small, "b": other}, "changed 1.")):
        record = run(*still, frozen=20)
        record.shapes = ShapeHistory(first={"a": small, "b": small}, frozen=frozen, step=20)
        assert drawn(record).more.endswith(f"Of the 2 shapes that it began with it {message}")


def test_a_cost_that_is_logged_again_counts_once() -> None:
    repeated = [{**line(1), "step": step} for step in range(1, 6)]
    assert lines_of(drawn(run(*repeated)).figure, 1)[0] == ([1], [1.29])


def test_a_single_step_is_a_point() -> None:
    entropy = drawn(run(line(1))).figure.axes[0].get_lines()[1]
    assert entropy.get_marker() == "o"


def test_the_running_mean_is_centred_and_starts_and_ends_at_the_values_themselves() -> None:
    assert smooth([0, 3, 6, 0, 3], span=3) == [0, 3, 3, 3, 3]
    assert smooth([5.0]) == [5.0] and smooth([]) == []
    assert smooth([float(i) for i in range(20)]) == pytest.approx(list(range(20)))
