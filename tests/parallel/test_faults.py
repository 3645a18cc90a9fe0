# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a run, it says so in a line, loses nothing, and the next start goes on: `faults.py`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.parallel.faults import STEPS, measure
from tests.parallel.forks import measured
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
#: by which a dead rank has ended the others; gloo itself gives up after half an hour
SOON = 600
STOPPED = "stopped before a weight was changed (elastic.nonfinite.action: stop)"
SMALL = "budget small (micro-batch 0): its loss is nan"


place = measured(measure)


@pytest.mark.long
@pytest.mark.part("kills")
def test_runs_that_are_killed_again_and_again_end_as_one_that_nobody_killed(results: dict[str, Any]) -> None:
    """Both stages and the cut of the members; what a start goes on from is the newest whole checkpoint."""
    kills = results["kills"]
    assert any(name.startswith("kills in") for name in kills)
    assert kills["ends with the tensors of a run that nobody killed"] == kills["cycles"] >= 1
    assert kills["folders verified"] > 1 and not kills["folders refused"] and not kills["half-written files"]
    assert not kills["newest whole checkpoints passed over"]


#: run -> its line; other causes and limits are in tests/train/test_guard.py
NOT_FINITE = {
    "ranks": f"training: step 0: {SMALL} (rank 0); {STOPPED}",
    "a stage's gradient": "training: step 0: budgets small: the gradient of decoder.layers.4.mixer.out_proj.weight "
    f"is not finite (rank 1); {STOPPED}",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=part("not finite", n, long=n != "ranks")) for n in NOT_FINITE],
)
def test_what_is_not_finite_is_named_on_every_rank_and_nothing_is_saved(results: dict[str, Any], name: str) -> None:
    run = results["not finite"][name]
    assert set(run["codes"]) == {2}
    assert run["left"] == []
    for said in run["said"]:
        assert said.splitlines()[-1] == f"error: {NOT_FINITE[name]}"


@pytest.mark.part("not finite", "skips")
def test_a_step_that_is_skipped_changes_nothing_and_the_run_goes_on(results: dict[str, Any]) -> None:
    run = results["not finite"]["skips"]
    assert run["codes"] == [0]
    assert f"  training: step 0: {SMALL}; this step is skipped (elastic.nonfinite.action: skip)" in run["said"][0]
    assert [math.isfinite(loss) for loss in run["facts"][0]["losses"]] == [False, *[True] * (STEPS - 1)]
    assert run["finite"], "NaN in the weights of the last checkpoint"


@pytest.mark.long
@pytest.mark.part("disk")
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(results: dict[str, Any]) -> None:
    run = results["disk"]
    assert run["codes"] == [2]
    assert run["left"] == ["step=0-last", "step=1-last"], "something half-written stays"
    line = run["said"][0].splitlines()[-1]
    assert line.startswith("error: checkpoint: ")
    assert "step=2-last: cannot be written (" in line
    assert line.endswith("step=1-last")
    assert (run["from"], run["same"]) == (2, True), "with room again the run must end as one that had it"


@pytest.mark.part("damaged")
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(results: dict[str, Any]) -> None:
    run = results["damaged"]
    (line,) = [x for x in run["said"][0].splitlines() if "is passed over" in x]
    assert line.startswith("  resume: step=3-last ") and "weights/__0_1.distcp" in line
    assert (run["from"], run["same"]) == (3, True), "it must end as one that nothing happened to"
    assert run["left"] == ["step=2-last", "step=3-last", "step=3-last-damaged"]


@pytest.mark.long
@pytest.mark.part("async")
def test_asynchronous_saves_are_listed(results: dict[str, Any]) -> None:
    run = results["async"]
    assert run["left"] == run["whole"] == ["step=2-last", "step=3-last"]
    wanted = {"weights/.metadata", "weights/common.pt", "weights/__0_0.distcp", "weights/__1_0.distcp",
              "context/io.json"}  # fmt: skip
    assert all(wanted <= set(listed) for listed in run["listed"])


@pytest.mark.part("hostile")
@pytest.mark.parametrize("name", ["start", "teacher", "resume"])
def test_nothing_runs_of_a_checkpoint_that_a_run_starts_from(results: dict[str, Any], name: str) -> None:
    run = results["hostile"][name]
    assert not run["ran"]
    assert run["codes"] == [2], run["said"]
    assert "FsspecReader" in run["said"][0].splitlines()[-1]


@pytest.mark.part("dead")
def test_a_rank_that_dies_ends_the_others_with_a_line(results: dict[str, Any]) -> None:
    run = results["dead"]
    assert run["codes"] == [1, -9]
    (line,) = [x for x in run["said"].splitlines() if x.startswith("error: ")]
    assert line.startswith("error: rank 0 of 2 stops in step ")
    assert line.endswith("step=2-last")
    assert run["seconds"] < SOON
