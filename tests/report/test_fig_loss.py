# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of losses over tokens: it shows where members differ, and no value is hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color

from nemo_elastic.report.drawing import RIM, Drawing, house
from nemo_elastic.report.fig_loss import draw
from nemo_elastic.report.palette import PAPER
from nemo_elastic.report.result import Results
from nemo_elastic.report.run_record import Phase, RunRecord, load_run


@pytest.fixture(autouse=True)
def in_the_house() -> Iterator[None]:
    with house():
        yield


def drawn(losses: Mapping[str, Sequence[float]], bigram: float | None = None) -> Drawing:
    """The picture of one stage, of as many values of each member."""
    lines = tuple(
        {"step": step, "tokens": step * 100, "losses": dict(zip(losses, values, strict=True))}
        for step, values in enumerate(zip(*losses.values(), strict=True))
    )
    results = Results(bigram_loss=bigram)
    drawing = draw(RunRecord(Path("run"), phases=(Phase("stage1", "stage 1", (), lines),), results=results))
    assert drawing is not None
    return drawing


def marks(axes: Axes) -> list[PathCollection]:
    return [c for c in axes.collections if isinstance(c, PathCollection)]


def heights(axes: Axes) -> list[float]:
    return [float(y) for c in marks(axes) for _, y in np.asarray(c.get_offsets())]


FALLING = {"big": [7.0, 3.2, 3.11, 3.10], "small": [9.0, 3.4, 3.3, 3.25]}


def test_high_first_losses_leave_the_others_their_room_and_are_marked_at_the_edge() -> None:
    drawing = drawn(FALLING)
    (axes,) = drawing.figure.axes
    low, top = axes.get_ylim()
    assert (3.25 - 3.10) / (top - low) > 0.3, "the ends are far apart"
    assert drawing.words == "Hollow marks at the upper edge: 2 higher losses, up to 9.00."
    assert sorted(heights(axes)) == pytest.approx(sorted([*FALLING["big"][1:], *FALLING["small"][1:], top, top]))
    for mark in marks(axes):
        assert not mark.get_clip_on() and mark.get_zorder() > max(line.get_zorder() for line in axes.lines)
        hollow = [same_color(paint, PAPER) for paint in np.asarray(mark.get_facecolor())]
        assert hollow == [y == top for _, y in np.asarray(mark.get_offsets())]


def test_losses_that_lie_close_are_all_inside_and_nothing_is_said() -> None:
    drawing = drawn({"big": [3.4, 3.2, 3.1], "small": [3.5, 3.4, 3.3]})
    low, top = drawing.figure.axes[0].get_ylim()
    assert low < 3.1 and top > 3.5 and "edge" not in drawing.words + drawing.more


@pytest.mark.parametrize("losses", [{"big": [7.0, 3.0]}, {"big": [3.0]}, {"big": [3.0, 3.0], "small": [3.0, 3.0]}])
def test_where_nothing_differs_at_the_end_everything_is_inside(losses: dict[str, list[float]]) -> None:
    (axes,) = drawn(losses).figure.axes
    low, top = axes.get_ylim()
    assert all(low < value < top for values in losses.values() for value in values)


@pytest.mark.parametrize(("bigram", "inside"), [(3.35, True), (3.0, True), (4.2, False), (1.0, False)])
def test_a_bigram_model_that_would_squeeze_the_lines_is_told_instead(bigram: float, inside: bool) -> None:
    drawing = drawn(FALLING, bigram)
    low, top = drawing.figure.axes[0].get_ylim()
    assert bool(low < bigram < top) is inside
    assert (f"A bigram model's {bigram:.2f} is outside." in drawing.more) is not inside


def test_of_members_with_equal_losses_each_has_a_mark_that_is_seen() -> None:
    (axes,) = drawn({name: [9.0, 3.4, 3.2, 3.1] for name in ("big", "middle", "small")}).figure.axes
    by_order = sorted(marks(axes), key=lambda mark: -mark.get_zorder())
    sizes = np.sqrt([np.asarray(mark.get_sizes()) for mark in by_order])
    assert len(sizes) == 3 and np.diff(sizes, axis=0) == pytest.approx(RIM)
    apart = drawn({"big": [3.3, 3.1], "small": [3.6, 3.5]}).figure.axes[0]
    assert {float(size) for mark in marks(apart) for size in np.asarray(mark.get_sizes())} == {4.5**2}


def test_a_run_like_the_demos_has_every_held_out_loss(demo_run: Path) -> None:
    run = load_run(demo_run)
    drawing = draw(run)
    assert drawing is not None
    values = [v for p in run.phases for line in p.heldout for v in line["losses"].values()]
    top = drawing.figure.axes[0].get_ylim()[1]
    assert top < 5 < max(values), "as high as at the start of the parent's training"
    assert sorted(heights(drawing.figure.axes[0])) == pytest.approx(sorted(min(v, top) for v in values))
    assert f"{sum(v > top for v in values)} higher losses" in drawing.words
