# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of a router's decisions: what it logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from nemo_elastic.report.drawing import Drawing, house
from nemo_elastic.report.fig_router import draw
from nemo_elastic.report.run_record import Phase, RunRecord, ShapeHistory


@pytest.fixture(autouse=True)
def in_the_house() -> Iterator[None]:
    with house():
        yield


def line(step: int) -> dict[str, Any]:
    return {"kind": "step", "step": step, "tokens": step, "entropy_hidden": 1 - step / 40,
            "cost_small": 1.3 - step / 100}  # fmt: skip


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


def test_it_shows_what_was_logged() -> None:
    drawing = drawn(run(*STEPS, frozen=30))
    steps = list(range(1, 31))
    assert lines_of(drawing.figure, 0) == [(steps, [1 - step / 40 for step in steps])]
    cost, target = lines_of(drawing.figure, 1)
    assert cost == (steps, [1.3 - step / 100 for step in steps]) and target[1] == [1.0, 1.0]
    names = [text.get_text() for axes in drawing.figure.axes for text in axes.get_legend().get_texts()]
    assert names == ["hidden width  0.25", "small  1.00"]
    assert drawing.words.endswith("Shapes were frozen at step 30.")


def test_a_single_step_is_a_point() -> None:
    assert drawn(run(line(1))).figure.axes[0].get_lines()[0].get_marker() == "o"
