# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture and the table of candidates: losses at each comparison, and where each candidate went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.report import load_run
from nemo_elastic.report.candidates import MOST_COMPARISONS, comparisons, tracks
from nemo_elastic.report.drawing import Drawing, house
from nemo_elastic.report.fig_candidates import MOST_PANELS, draw
from nemo_elastic.report.page_tables import candidates_table
from nemo_elastic.report.run_record import Phase, RunRecord, ShapeHistory
from tests.report.fabricate import CUTS, LIVE
from tests.shapes import MOE, PARENT


@pytest.fixture(autouse=True)
def in_the_house() -> Iterator[None]:
    with house():
        yield


SHAPES = [PARENT.uniform(hidden=hidden, ffn=8) for hidden in (16, 12, 8)]
UNTRAINED = (0.8, 0.9, 1.2)


def line(step: int, **more: Any) -> dict[str, Any]:
    return {"kind": "step", "step": step, "tokens": step, **more}


LINES = [
    line(1, candidates={"small": [0, 1]}),
    line(2, candidates={"small": [2]}),
    line(3, compared={"small": {"0": 0.5, "1": 0.4, "2": 0.7}}, candidates={"small": [0]}),
    line(5, compared={"small": {"0": 0.3, "1": 0.2}}),
]


def run(*lines: dict[str, Any], frozen: Subnet | None = None, names: tuple[str, ...] = ("small",)) -> RunRecord:
    own = list(zip(SHAPES, UNTRAINED, strict=True))
    shapes = ShapeHistory(candidates=dict.fromkeys(names, own), frozen={"small": frozen} if frozen else {})
    return RunRecord(Path("run"), phases=(Phase("stage1", "stage 1", lines, ()),), shapes=shapes)


def drawn(record: RunRecord) -> Drawing:
    drawing = draw(record)
    assert drawing is not None
    return drawing


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> steps and losses."""
    labelled = [x for x in axes.get_lines() if not str(x.get_label()).startswith("_")]
    return {str(x.get_label()): (list(x.get_xdata()), list(x.get_ydata())) for x in labelled}  # pyright: ignore


def test_a_line_ends_at_the_cut_at_which_its_candidate_went() -> None:
    (axes,) = drawn(run(*LINES, frozen=SHAPES[1])).figure.axes
    assert lines_of(axes) == {
        "12 × 5  stays": ([0, 2, 4], [0.9, 0.4, 0.2]),
        "16 × 5  went at 4": ([0, 2, 4], [0.8, 0.5, 0.3]),
        "8 × 5  went at 2": ([0, 2], [1.2, 0.7]),
    }
    assert axes.get_yscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["untrained", "2", "4"]
    widths = {str(x.get_label()): x.get_linewidth() for x in axes.get_lines()}
    assert max(widths, key=lambda label: widths[label]) == "12 × 5  stays"


def test_candidates_that_were_not_cut_yet_are_in_turn() -> None:
    outcomes = {t.number: t.outcome for t in tracks(run(*LINES[:3]))["small"]}
    assert outcomes == {0: "in turn", 1: "in turn", 2: "in turn"}
    assert {t.number: t.outcome for t in tracks(run(*LINES))["small"]} == {0: "in turn", 1: "in turn", 2: "went at 2"}


def test_nothing_is_drawn_before_the_first_comparison_or_without_candidates() -> None:
    assert draw(run(*LINES[:2])) is None and draw(RunRecord(Path("run"))) is None
    assert draw(run(*LINES, names=())) is None and candidates_table(run(*LINES, names=())) is None


def test_what_is_said_of_the_search_is_what_became_of_its_first_choice() -> None:
    assert drawn(run(*LINES, frozen=SHAPES[0])).more.endswith("first choice stayed for 1 of 1 budgets.")
    assert drawn(run(*LINES, frozen=SHAPES[1])).more.endswith("first choice stayed for 0 of 1 budgets.")
    assert "first choice" not in drawn(run(*LINES)).more


def test_each_micro_batch_counts_for_the_candidate_that_it_trained() -> None:
    assert [t.trained for t in tracks(run(*LINES))["small"]] == [2, 1, 1]


@pytest.mark.parametrize(("parent", "choices", "label"), [
    (PARENT, {"hidden": 8}, "8 × 5"), (MOE, {"experts": 4}, f"{MOE.hidden} × {MOE.num_layers}, 4 experts"),
])  # fmt: skip
def test_a_label_says_what_tells_candidates_apart(parent: Parent, choices: dict[str, int], label: str) -> None:
    record = run(*LINES)
    record.shapes = ShapeHistory(candidates={"small": [(parent.uniform(**choices), 1.0), (parent.full, 0.9)]})
    assert tracks(record)["small"][0].label == label


def test_the_table_has_a_row_for_every_candidate(demo_run: Path) -> None:
    table = candidates_table(load_run(demo_run))
    assert table is not None
    assert list(table.heads) == ["candidate", "hidden", "layers", "parameters", "untrained", f"step {CUTS[0]}",
                                 f"step {CUTS[1]}", "batches", "outcome"]  # fmt: skip
    assert [(row[0], row[-1]) for row in table.rows] == [
        (f"{name}: {n}", "stays" if n in LIVE[2][name] else f"went at {CUTS[n in LIVE[1][name]]}")
        for name in ("1.1m", "0.8m") for n in LIVE[0][name]
    ]  # fmt: skip


STRANGE: list[Any] = [
    None, True, "1", [1], {"small": ["1", True, 1.0]}, {"small": 3}, {"small": {"0": {}, "1": -1, "": 1}}
]  # fmt: skip


@pytest.mark.parametrize("strange", STRANGE)
def test_fields_that_no_run_writes_are_no_losses(strange: Any) -> None:
    record = run(*LINES[:3], line(9, compared=strange, candidates=strange))
    assert [t.losses for t in tracks(record)["small"]] == [{2: 0.5}, {2: 0.4}, {2: 0.7}]
    assert [t.trained for t in tracks(record)["small"]] == [2, 1, 1]
    drawn(record)


def test_more_than_a_run_has_is_not_shown() -> None:
    many = [line(step, compared={"small": {"0": 0.5, "1": 0.4}}) for step in range(1, 100)]
    assert len(comparisons(run(*many))) == MOST_COMPARISONS
    names = ("small", *(f"b{i}" for i in range(20)))
    every = [replace_names(x, names) for x in LINES]
    assert len(drawn(run(*every, names=names)).figure.axes) == MOST_PANELS


def replace_names(of: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: dict.fromkeys(names, v["small"]) if isinstance(v, dict) else v for k, v in of.items()}


def test_losses_without_numbers_leave_the_shapes(demo_run: Path) -> None:
    record = load_run(demo_run)
    record.shapes = replace(record.shapes, candidates={n: [(s, None) for s, _ in own]
                                                       for n, own in record.shapes.candidates.items()})  # fmt: skip
    assert all(x[0] == list(CUTS[: len(x[0])]) for axes in drawn(record).figure.axes for x in lines_of(axes).values())
