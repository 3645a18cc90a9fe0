# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a report and a demo say of a run is what was measured, no more."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from nemo_elastic.cli.app import main
from nemo_elastic.core.manifest import Family
from nemo_elastic.demo.walk import markdown, targets
from nemo_elastic.report import load_run
from nemo_elastic.report.html_page import render
from nemo_elastic.report.page_tables import members, size
from nemo_elastic.report.result import Results
from nemo_elastic.report.run_record import ShapeHistory
from nemo_elastic.slicing.family_folder import write_family
from tests.report.fabricate import BEFORE, TOTAL, make_run
from tests.shapes import PARENT
from tests.slicing.helpers import SMALL, random_values


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def edit(run: Path, **changes: Any) -> Path:
    """Other values in its metrics.json."""
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run


def page(run: Path) -> str:
    return render(load_run(run), {})


def tiles(html: str) -> dict[str, str]:
    """What a tile says -> its figure."""
    return {what: figure for figure, what in re.findall(r'class="tile"><b>(.*?)</b><span>(.*?)</span>', html)}


def cells(html: str, head: str) -> list[list[str]]:
    """The cells of every row of the table under a heading, the row of heads first."""
    table = html[html.index(f"<h3>{head}</h3>") :].partition("</table>")[0]
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall("<tr>(.*?)</tr>", table)]


# ------------------------------------------------------------------ time


def test_time_is_the_runs_own_and_its_total_is_no_phase(run: Path) -> None:
    html = page(run)
    assert tiles(html)["all phases"] == "3 min 37 s" and round(TOTAL) == 217
    assert [row[0] for row in cells(html, "Time")] == ["phase", "data", "parent", "stage 1", "stage 2", "all"]
    assert cells(html, "Time")[-1][1] == "3 min 37 s"


# ------------------------------------------------------------------ the parent


def test_the_parents_loss_is_its_own_and_the_trained_member_has_its_name(run: Path) -> None:
    report = tiles(page(run))
    assert report["held-out loss of the parent before elastic training"] == f"{BEFORE:.3f}" == "3.100"
    assert report["loss of the largest member, 1.6m"] == "3.120"
    assert [m["name"] for m in members(load_run(run))] == ["parent", "1.6m", "1.1m", "0.8m"]


def test_a_parent_that_was_not_measured_beside_its_members_is_not_made_of_one(run: Path) -> None:
    rows = json.loads((run / "metrics.json").read_text())["members"][1:]
    report = tiles(page(edit(run, members=rows)))
    assert report["held-out loss of the parent as its own training ended"] == "3.120"
    assert not any("before elastic training" in what for what in report)


# ------------------------------------------------------------------ verdicts


def losses(untrained: float, unsorted: float, loss: float = 3.2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    parent = {"name": "parent", "loss": 3.1}
    whole = {"name": "big", "loss": 3.12, "untrained_loss": 3.1, "unsorted_loss": 3.1, "recovered": None}
    small = {"name": "small", "loss": loss, "untrained_loss": untrained, "unsorted_loss": unsorted, "recovered": 0.6}
    return parent, [whole, small]


@pytest.mark.parametrize(
    ("gain", "met"), [(1e-10, False), (0.0049, False), (-0.1, False), (0.0051, True), (0.4, True)]
)
def test_sorting_gains_only_beyond_the_tolerance_and_the_gain_is_reported(gain: float, met: bool) -> None:
    report = targets(*losses(4.0, 4.0 + gain), bigram=4.0)["small gains by sorting"]
    assert report["met"] is met and report["at_least"] == 0.005 and report["found"] == pytest.approx(gain)


def test_every_target_tells_what_was_found_and_what_was_asked() -> None:
    report = targets(*losses(4.0, 4.5), bigram=4.0)
    assert list(report) == ["parent below a bigram model", "big above the parent", "small above the parent",
                          "small closes of its gap", "small gains by sorting"]  # fmt: skip
    assert [t["met"] for t in report.values()] == [True] * 5
    assert report["small above the parent"]["found"] == pytest.approx(0.1)
    parent, (whole, small) = losses(3.11, 3.2)
    assert "small closes of its gap" not in targets(parent, [whole, small | {"recovered": None}], bigram=4.0)


def test_the_page_judges_by_the_figures(run: Path) -> None:
    wrong = {"sorting": {"found": 1e-10, "unit": "nats", "at_least": 0.005, "met": True}, "other": True}
    html = page(edit(run, targets=wrong))
    assert cells(html, "Targets")[1:] == [["sorting", "+0.000 nats", "at least 0.005", "no"]]


def test_a_gap_too_small_to_be_known_has_no_share(run: Path) -> None:
    rows = json.loads((run / "metrics.json").read_text())["members"]
    rows[2] |= {"untrained_loss": BEFORE + 0.049, "loss": BEFORE + 0.2, "recovered": -3.1}
    data = Results.from_json(json.loads((edit(run, members=rows) / "metrics.json").read_text()), "x")
    assert data.members[2].recovered is None and data.members[3].recovered is not None


# ------------------------------------------------------------------ once


def test_no_table_says_what_another_has_said(run: Path) -> None:
    html = page(run)
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall("<tr>(.*?)</tr>", html)]
    assert len(rows) > 50
    tasks = [row[0] for row in cells(html, "Accuracy by task")]  # two of them have the same figures here
    figures = [tuple(row[1:]) for row in rows if len(row) > 2 and row[0] not in tasks]
    assert sorted(set(figures)) == sorted(figures), "a row of figures stands twice"
    exact = [cell for row in rows for cell in set(row) if re.fullmatch(r"[\d,]{7,}|[0-9a-f]{32,}|[M*-]{5,}", cell)]
    assert len(exact) > 7 and sorted(set(exact)) == sorted(exact), "a count, digest or pattern stands twice"
    assert not any(len(set(shares)) < len(shares) for row in rows if (shares := [c for c in row[1:] if "." in c]))
    names = [row[0] for title in ("Parent", "Ranking") for row in cells(html, title)]
    assert {"vocab", "samples"} <= set(names) and not {"pattern", "hidden", "sequences"} & set(names)
    assert "in bytes" not in html, "memory stands there once"


def test_a_whole_parent_that_is_no_member_has_its_layers_in_the_settings(run: Path) -> None:
    html = render(replace(load_run(run), family=None, results=None, shapes=ShapeHistory(), phases=()), {})
    assert {"pattern", "hidden"} <= {row[0] for row in cells(html, "Parent")}


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_what_inspect_tells_of_the_same_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    run = tmp_path / "run"
    write_family(run / "family", PARENT, random_values(PARENT), Family.of(PARENT, {"small": SMALL}))
    config = run / "family" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"torch_dtype": dtype}))
    with pytest.raises(SystemExit):
        main(["inspect", str(run / "family"), "--json"])
    inspected = json.loads(capsys.readouterr().out)["members"]
    loaded = load_run(run)
    assert loaded.serving.weights == {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    html = page(run)
    for m in members(loaded):
        report = inspected[m["name"]]["memory"]
        assert (
            {"bytes": m["memory_bytes"], **m["memory"]}
            == {"bytes": report["bytes"], **asdict(loaded.serving)}
            == report
        )
        assert f">{size(report['bytes'])}<" in html
    assert f"memory ({loaded.serving.weights})" in html


def test_without_the_familys_config_memory_is_that_of_bf16(run: Path) -> None:
    (run / "family" / "config.json").unlink()
    data = json.loads((run / "family" / "elastic.json").read_text())["members"]
    assert {m["name"]: m["memory_bytes"] for m in members(load_run(run)) if m["trained"]} == {
        name: member["memory"]["bytes"] for name, member in data.items()
    }


# ------------------------------------------------------------------ answers


def test_accuracies_have_their_number_and_interval(run: Path) -> None:
    html = page(run)
    assert "accuracy, n = 96" in html and "41.7% (32.3 to 51.7)" in html
    assert cells(html, "Accuracy by task")[1][:3] == ["color_cube_rotation", "48", "41.7% (28.8 to 55.7)"]


def test_members_that_answered_different_numbers_say_so(run: Path) -> None:
    rows = json.loads((run / "metrics.json").read_text())["members"]
    rows[1]["answers"] |= {"correct": 0, "total": 12}
    html = page(edit(run, members=rows))
    assert "0.0% of 12 (0.0 to 24.2)" in html and "41.7% of 96 (32.3 to 51.7)" in html


@pytest.mark.parametrize(
    "wrong",
    [{"correct": 3, "total": 2}, {"correct": 0, "total": 0}, {"correct": 1.5, "total": 2}, {"total": 2}, [1],
     {"correct": 1, "total": 2, "guessed": 3}, {"correct": 1, "total": 2, "guessed": "1"}],
)  # fmt: skip
def test_answers_that_no_run_gives_are_left_out(run: Path, wrong: Any) -> None:
    rows = json.loads((run / "metrics.json").read_text())["members"]
    rows[1]["answers"] = wrong
    assert any("members[1].answers" in note for note in load_run(edit(run, members=rows)).notes)


def test_accuracies_that_are_no_more_than_a_guess_are_left_out_and_said(run: Path) -> None:
    """The parent has 40 of 96 right, 32.3% at least, and 20 of 48 of each task, 28.8% at least."""
    rows = json.loads((run / "metrics.json").read_text())["members"]

    def guessed(whole: int, **tasks: int) -> str:
        for row in rows:
            row["answers"]["guessed"] = whole
            for task, count in tasks.items():
                row["answers"]["by_task"][task]["guessed"] = count
        return page(edit(run, members=rows))

    left_out = str(escape(" is left out: the parent's is no better than a task's most frequent answer."))
    brackets = str(escape("Wilson's interval"))
    html = guessed(31, color_cube_rotation=13)
    assert "accuracy, n = 96" in html and len(cells(html, "Accuracy by task")) == 3 and left_out not in html
    html = guessed(32, color_cube_rotation=14)
    assert f"Accuracy on all problems, color_cube_rotation{left_out}" in html and "accuracy, n" not in html
    assert [row[0] for row in cells(html, "Accuracy by task")] == ["task", "letter &lt;b&gt;"]
    assert html.count(brackets) == 1
    html = guessed(32, **{"letter <b>": 48})
    assert "Accuracy by task" not in html and f"Accuracy{left_out}" in html and brackets not in html


def test_a_parent_that_solves_nothing_has_no_accuracies(run: Path) -> None:
    rows = json.loads((run / "metrics.json").read_text())["members"]
    for row in rows:
        none = {"correct": 0, "total": 96, "guessed": 0}
        row |= {"accuracy": 0.0, "answers": none | {"by_task": {"gcd": none}}}
    html = page(edit(run, members=rows))
    assert "Accuracy is left out: " in html and ">0.0%" not in html


def test_the_demos_table_has_them(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for row in metrics["members"]:
        row["answers"]["interval"] = [0.104, 0.26]
    report = markdown(metrics)
    assert "| 0.8m | 704,068 | 45% | 3.360 | 5.420 | 7.050 | 89% | 17% (10% to 26%) |" in report
    assert "96 held-out problems" in report


# ------------------------------------------------------------------ shapes


def test_members_are_called_nested_only_where_they_are(run: Path) -> None:
    from nemo_elastic.report.fig_shapes import draw

    loaded = load_run(run)
    drawn = draw(loaded)
    assert drawn is not None and "nested in each other" in drawn.words
    shapes = dict(loaded.shapes.frozen)
    shapes["0.8m"] = replace(shapes["0.8m"], hidden=128)
    loaded.family, loaded.shapes = None, replace(loaded.shapes, frozen=shapes)
    drawn = draw(loaded)
    assert drawn is not None and "nested" not in drawn.words


def test_the_share_of_the_gap_is_reported_of_those_that_have_one(run: Path) -> None:
    from nemo_elastic.report.fig_family import draw

    rows = json.loads((run / "metrics.json").read_text())["members"]
    drawn = draw(load_run(run))
    assert drawn is not None and "closes 89% to 91% of" in drawn.words and drawn.words.endswith("its parent.")
    rows[2] |= {"untrained_loss": BEFORE + 0.03}
    drawn = draw(load_run(edit(run, members=rows)))
    assert drawn is not None and "closes 89% of" in drawn.words
    assert drawn.words.endswith("its parent, where it is 0.05 nats or more.")


@pytest.mark.parametrize("untrained", [3.21, 3.2101])
def test_a_cut_that_training_left_as_it_was_keeps_a_mark_that_is_seen(run: Path, untrained: float) -> None:
    from nemo_elastic.report.drawing import RIM, house
    from nemo_elastic.report.fig_family import draw

    rows = json.loads((run / "metrics.json").read_text())["members"]
    rows[1]["loss"] = BEFORE
    rows[2] |= {"untrained_loss": untrained, "unsorted_loss": untrained}
    with house():
        drawn = draw(load_run(edit(run, members=rows)))
    assert drawn is not None
    marks = [line for line in drawn.figure.axes[0].lines if len(line.get_xdata()) == 1]
    for loss, looks in ((3.21, ["o", "o", "x"]), (BEFORE, ["o", "o"])):
        here = [m for m in marks if abs(m.get_ydata()[0] - loss) < 0.001]
        here.sort(key=lambda mark: mark.get_markersize())
        assert [mark.get_marker() for mark in here] == looks
        assert [b.get_markersize() - a.get_markersize() for a, b in pairwise(here)] == pytest.approx(
            [RIM] * (len(here) - 1), abs=0.1
        )
        order = [(mark.get_zorder(), marks.index(mark)) for mark in here]
        assert order == sorted(order, reverse=True), "the smaller lie on the larger"
