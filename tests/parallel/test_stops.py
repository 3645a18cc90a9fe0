# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs in a row that are stopped: exit codes tell whether a training is done; its history does not show the stops."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import digests
from tests.parallel.forks import measured
from tests.parallel.runs import BATCH, LENGTH, Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
NEXT = "the next start resumes from "
STEPS, SECOND, EVERY = 6, 2, 2
#: under the router's masks for three steps, then on slices; few micro-batches, so that no step samples every budget
SOFT = Layout(soft=True, micro_batches=2)
ROUTER = {"router": {"freeze_at": 0.5, "hidden": 16}}
#: a chain: the last stop is in the last job of the row
ROW = ((1, 0), (3, 0), (4, 75))


def first(out: str, **more: Any) -> Job:
    """Stage 1 as a job of `run_family` runs it; however it ends."""
    how: dict[str, Any] = {"layout": SOFT, "steps": STEPS, "changes": ROUTER}
    return Job(out, save_every=EVERY, validate=EVERY, padded=True, ends=None, **(how | more))


def second(run: str) -> Job:
    return first(f"{run}/stage2", kind="stage2", steps=SECOND, previous=(f"{run}/stage1", STEPS))


def ends(code: int) -> dict[str, Any]:
    """One of a row, which ends with this code where it is stopped."""

    def elastic(task: Any) -> None:
        from nemo_elastic.hosts.nemo.curriculum.jobs import stop_in_time

        stop_in_time(task, code)

    return {"elastic": elastic}


def stock() -> Any:
    """NeMo's callback takes the signal; it puts a flag on the current device."""
    from nemo.lightning.pytorch.callbacks import PreemptionCallback

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    callback: Any = PreemptionCallback()
    callback.platform = cuda_as_cpu()  # which ends with the last reference to it
    callback.platform.__enter__()
    return callback


#: part -> how the run is stopped
STOPPED: dict[str, dict[str, Any]] = {
    "stock": {"stop": 2, "callback": stock},
    "last step": {"stop": STEPS - 1}, "Ctrl-C": {"stop": 2, "signal": signal.SIGINT},
    "ranks": {"stop": 2, "layout": Layout(tensor=2, soft=True, micro_batches=2)},
}  # fmt: skip


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place, whole=False)
    do(place, Job("rank-router", "rank", SOFT, changes=ROUTER))
    results: dict[str, Any] = {"whole": do(place, first("whole/stage1"), second("whole"))}
    results["row"] = do(place, *(first("row/stage1", stop=at, **ends(code)) for at, code in ROW))
    results["early"], *results["again"], results["after"] = do(
        place, second("row"), first("row/stage1", **ends(0)), first("row/stage1", **ends(0)), second("row")
    )
    for name, how in STOPPED.items():
        if name in parts:
            (results[name],) = do(place, first(name, **how))
    if "Ctrl-C" in parts:
        (results["resumed"],) = do(place, first("Ctrl-C", steps=STEPS + 1))
    for name in ("whole", "row"):
        run = place / name / "stage1"
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        results[f"{name} left"] = {"history": history, "stages": [digests(run), digests(run.with_name("stage2"))]}
    return results


def line_of(run: dict[str, Any]) -> str:
    """The one line of the first rank that says how it ended."""
    (line,) = [line for line in run["said"][0].splitlines() if line.startswith(("error: ", "stopped: "))]
    return line


place = measured(measure)


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
    line = line_of(run)
    assert line.startswith("error: start: ")
    assert f"checkpoints/step={STEPS - 1}-last is missing or not whole; its run reached step=4-last" in line
    assert run["said"][0].splitlines()[-1] == line


def test_what_a_row_leaves_is_what_one_job_leaves(results: dict[str, Any]) -> None:
    assert [run["codes"] for run in results["whole"]] == [[0], [0]]
    assert results["row left"]["stages"] == results["whole left"]["stages"]
    whole, lines = (results[f"{name} left"]["history"] for name in ("whole", "row"))
    assert [line | {"seconds": 0} for line in lines] == [line | {"seconds": 0} for line in whole]
    seconds = [line["seconds"] for line in lines if line["kind"] == "step"]
    assert seconds == sorted(seconds) and len(set(seconds)) == STEPS


@pytest.mark.parametrize(
    ("name", "code", "left"),
    [
        pytest.param("stock", 75, "step=2-last", marks=part("stock", long=True)),
        pytest.param("ranks", 75, "step=2-last", marks=part("ranks")),
        pytest.param("Ctrl-C", 130, "step=2-last", marks=part("Ctrl-C")),
    ],
)
def test_a_training_that_is_stopped_is_no_success(results: dict[str, Any], name: str, code: int, left: str) -> None:
    run = results[name]
    assert set(run["codes"]) == {code}
    assert run["left"][-1] == left
    line = line_of(run)
    assert line.startswith("stopped: rank 0 of ")
    assert f", exit code {code}; {NEXT}" in line and line.endswith(left)
    assert "Traceback" not in run["said"][0]


@pytest.mark.part("Ctrl-C")
def test_the_start_after_ctrl_c_goes_on_and_names_other_steps(results: dict[str, Any]) -> None:
    run = results["resumed"]
    assert (run["codes"], run["left"][-1]) == ([0], f"step={STEPS}-last")
    assert f"  resume: trainer.max_steps: {STEPS} -> {STEPS + 1}, from now on" in run["said"][0].splitlines()


@pytest.mark.long
@pytest.mark.part("last step")
def test_a_signal_in_the_last_step_changes_nothing(results: dict[str, Any]) -> None:
    assert (results["last step"]["codes"], results["last step"]["left"][-1]) == ([0], f"step={STEPS - 1}-last")


def test_a_history_has_every_step_and_every_measurement(results: dict[str, Any]) -> None:
    """A quarter of the tokens is masked; what counts are those that are left."""
    lines = results["whole left"]["history"]
    per_step = BATCH * LENGTH * SOFT.micro_batches * 3 // 4
    assert all(line["tokens"] == per_step * line["step"] for line in lines)
    assert [x["step"] for x in lines if x["kind"] == "step"] == list(range(1, STEPS + 1))
    assert [x["step"] for x in lines if x["kind"] == "heldout"] == list(range(0, STEPS + 1, EVERY))
    sampled = [{k for k in x if k.startswith("loss_")} for x in lines if x["kind"] == "step"]
    assert len(set(map(frozenset, sampled))) > 1, "each step has the budgets that it sampled, and no others"
    assert any("router_tau" in line and "entropy_hidden" in line for line in lines)
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
