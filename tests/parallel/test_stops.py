# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Exit codes tell whether a training is done, and its history does not show that it was stopped: `stops.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.runs import BATCH, LENGTH
from tests.parallel.stops import EVERY, ROW, SOFT, STEPS
from tests.workers import part, parts, work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
NEXT = "the next start goes on from "


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stops")
    work("tests.parallel.stops", folder, *parts(request))
    return folder


@pytest.fixture(scope="module")
def results(place: Path) -> dict[str, Any]:
    return json.loads((place / "stops.json").read_text())


def test_a_row_of_jobs_goes_on_and_only_its_end_lets_the_next_stage_start(results: dict[str, Any]) -> None:
    """As Slurm runs it with `afterok`: a job is started when the one before it has ended with 0."""
    assert [run["codes"] for run in results["row"]] == [[code] for _, code in ROW] == [[0], [0], [75]]
    assert [run["left"][-1] for run in results["row"]] == [f"step={at}-last" for at, _ in ROW]
    assert [run["codes"] for run in results["again"]] == [[0], [0]], "submitted again, and one too many"
    assert {run["left"][-1] for run in results["again"]} == {f"step={STEPS - 1}-last"}
    assert results["after"]["codes"] == [0]


def test_the_next_stage_refuses_one_that_was_only_stopped(results: dict[str, Any]) -> None:
    run = results["early"]
    assert run["codes"] == [2] and run["left"] == []
    (line,) = run["lines"]
    assert line.startswith("error: start: ")
    assert (
        f"checkpoints/step={STEPS - 1}-last is not there, or not whole; its run has come as far as step=4-last" in line
    )
    assert run["said"].splitlines()[-1] == line


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_what_a_row_leaves_is_what_one_job_leaves(results: dict[str, Any], stage: str) -> None:
    assert [run["codes"] for run in results["whole"]] == [[0], [0]]
    assert results["digests"][f"row-{stage}"] == results["digests"][f"whole-{stage}"]


@pytest.mark.parametrize(
    ("name", "code", "left"),
    [
        pytest.param("terminated", 143, "step=1-last", marks=part("terminated", long=True)),
        pytest.param("terminated, saved", 75, "step=1-last", marks=part("terminated, saved", long=True)),
        pytest.param("stock", 75, "step=2-last", marks=part("stock", long=True)),
        pytest.param("ranks", 75, "step=2-last", marks=part("ranks")),
        pytest.param("Ctrl-C", 130, "step=1-last", marks=part("Ctrl-C")),
    ],
)
def test_a_training_that_is_stopped_is_no_success(results: dict[str, Any], name: str, code: int, left: str) -> None:
    run = results[name]
    assert set(run["codes"]) == {code}
    assert run["left"][-1] == left
    (line,) = run["lines"]
    assert line.startswith("stopped: rank 0 of ")
    assert f", exit code {code}; {NEXT}" in line and line.endswith(left)
    assert "Traceback" not in run["said"]


@pytest.mark.long
@pytest.mark.part("stock model")
def test_the_parents_own_training_has_the_same_codes(results: dict[str, Any]) -> None:
    assert (results["stock model"]["codes"], results["stock model"]["left"][-1]) == ([143], "step=1-last")


@pytest.mark.long
@pytest.mark.part("last step")
def test_a_signal_in_the_last_step_changes_nothing(results: dict[str, Any]) -> None:
    assert (results["last step"]["codes"], results["last step"]["left"][-1]) == ([0], f"step={STEPS - 1}-last")


@pytest.mark.parametrize("how", ["row", pytest.param("killed", marks=part("killed", long=True))])
def test_a_run_that_was_stopped_has_the_history_of_one_that_was_not(results: dict[str, Any], how: str) -> None:
    """Also where a step was done again: the kill came one step after the last checkpoint."""
    whole, lines = ([{k: v for k, v in x.items() if k != "seconds"} for x in results["histories"][n]]
                    for n in ("whole", how))  # fmt: skip
    assert lines == whole
    assert results["digests"][f"{how}-stage1"] == results["digests"]["whole-stage1"]
    seconds = [line["seconds"] for line in results["histories"][how] if line["kind"] == "step"]
    assert seconds == sorted(seconds) and len(set(seconds)) == STEPS


@pytest.mark.parametrize("name", ["whole", pytest.param("stock model", marks=part("stock model", long=True))])
def test_a_step_tells_the_tokens_that_count(results: dict[str, Any], name: str) -> None:
    """A quarter of them is masked; what counts are those that are left, in the parent's own training too."""
    per_step = BATCH * LENGTH * SOFT.micro_batches * 3 // 4
    assert all(line["tokens"] == per_step * line["step"] for line in results["histories"][name])


def test_a_history_has_every_step_and_every_measurement(results: dict[str, Any]) -> None:
    lines = results["histories"]["whole"]
    assert [x["step"] for x in lines if x["kind"] == "step"] == list(range(1, STEPS + 1))
    assert [x["step"] for x in lines if x["kind"] == "heldout"] == list(range(0, STEPS + 1, EVERY))
    sampled = [{k for k in x if k.startswith("loss_")} for x in lines if x["kind"] == "step"]
    assert len(set(map(frozenset, sampled))) > 1, "each step has the budgets that it sampled, and no others"


def test_the_report_sees_one_run(place: Path) -> None:
    from nemo_elastic.report import load_run

    loaded = {name: load_run(place / name) for name in ("whole", "row")}
    for run in loaded.values():
        assert not any("metrics" in note for note in run.notes)
    one, other = (next(p for p in loaded[n].phases if p.name == "stage1") for n in ("whole", "row"))
    assert (one.tokens, one.heldout) == (other.tokens, other.heldout)
    assert [p.start for p in loaded["row"].phases] == [p.start for p in loaded["whole"].phases] == [0, one.tokens]
