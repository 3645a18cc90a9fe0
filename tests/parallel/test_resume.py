# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run that was killed and started again is the run that was not, also on other ranks.

Stops between other steps are those of `test_stops.py`; what a start refuses is in `tests/hosts`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import LOSS, WEIGHT, deviation, digests, weights
from tests.parallel.forks import measured
from tests.parallel.nemo import saved_at_start
from tests.parallel.runs import PEAK, Job, Layout, do, prepare

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
STEPS = 4
#: steps before which a run is killed: the one that freezes the router, and one on slices
KILL, STOP = 2, 3
#: under the router's masks for two steps, then on slices
SOFT = Layout(soft=True, micro_batches=2)
ROUTER: dict[str, Any] = {"router": {"freeze_at": 0.5, "hidden": 16}}


def job(out: str, layout: Layout, changes: Any = ROUTER, steps: int = STEPS, **more: Any) -> Job:
    return Job(out, layout=layout, changes=changes, steps=steps, save_every=1, **more)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place, whole=False)
    (rank,) = do(place, Job("rank-router", "rank", SOFT, changes=ROUTER))
    actual: dict[str, Any] = {name: killed(place, name, stop) for name, stop in (("whole", None), ("killed", KILL))}
    actual["read"] = rank["facts"][0]["read"]
    for name, run in {"resharded": resharded, "stages": in_stages}.items():
        if name in parts:
            actual[name] = run(place)
    return actual


def killed(place: Path, out: str, stop: int | None) -> dict[str, Any]:
    """A run that is killed before a step and started again, if there is such a step."""
    if stop is not None:
        do(place, job(out, SOFT, until=stop))
    (facts,) = do(place, job(out, SOFT))[0]["facts"]
    return {**{k: facts[k] for k in ("losses", "from", "samples", "learned", "read")}, "state": digests(place / out)}


def resharded(place: Path) -> dict[str, Any]:
    """A step on one rank, two on two, one on one again; and what two ranks make of a checkpoint without a step."""
    alone, two = place / "whole", replace(SOFT, tensor=2)
    do(place, job("moved", SOFT, until=1), job("moved", replace(two, sequence=True), until=STOP), job("moved", SOFT))
    shutil.copytree(alone / "checkpoints", place / "copied" / "checkpoints")
    saved = place / "saved"
    do(place, job("copied", two, steps=STEPS + 1, callback=saved_at_start(saved)))
    return {
        "weights": deviation(weights(place / "moved"), weights(alone)) / PEAK,
        "identical": digests(saved) == digests(alone),
        "tensors": len(digests(saved)),
    }


def in_stages(place: Path) -> dict[str, Any]:
    """A run in pipeline stages with a teacher: without a stop, stopped and gone on, and gone on with on one rank."""
    layout, held = replace(SOFT, pipeline=2), {}
    for name, end in (("whole", layout), ("stopped", layout), ("alone", SOFT)):
        out = f"stages-{name}"
        if name != "whole":
            do(place, job(out, layout, until=STOP))
        facts = do(place, job(out, end))[0]["facts"][0]
        held[name] = {"from": facts["from"], "losses": facts["losses"]}
        held[name]["weights"] = deviation(weights(place / out), weights(place / "whole")) / PEAK
    held["identical"] = digests(place / "stages-stopped") == digests(place / "stages-whole")
    return held


place = measured(measure)


def test_a_killed_run_ends_bit_for_bit_as_one_that_nobody_killed(results: dict[str, Any]) -> None:
    whole, resumed = results["whole"], results["killed"]
    assert (whole["from"], resumed["from"]) == (0, KILL)
    assert resumed["losses"] == whole["losses"][KILL:]
    assert resumed["samples"] == [d for d in whole["samples"] if d[0] >= KILL]
    assert resumed["state"] == whole["state"], "weights, router, members or optimizer"
    assert results["read"] == ["student"], "a ranking starts from the parent"
    assert whole["read"] == resumed["read"] == ["teacher"], "NeMo loads the ranking's checkpoint, or the run's own"


def test_the_runs_had_soft_steps_sliced_ones_and_an_optimizer(results: dict[str, Any]) -> None:
    whole = results["whole"]
    assert "Gates" in {kind for step, _, kind in whole["samples"] if step < STEPS // 2} <= {"NoneType", "Gates"}
    assert "Subnet" in {kind for step, _, kind in whole["samples"] if step >= STEPS // 2}
    soft, frozen = whole["learned"][: STEPS // 2], whole["learned"][STEPS // 2 - 1 :]
    assert len(set(soft)) > 1 == len(set(frozen)), "the router learns until it is frozen"
    assert any("exp_avg_sq" in name and "router" in name for name in whole["state"])
    assert whole["losses"][-1] > 0


@pytest.mark.part("resharded")
def test_one_rank_two_ranks_one_rank_and_two_write_the_bytes_that_one_wrote(results: dict[str, Any]) -> None:
    assert results["resharded"]["weights"] <= WEIGHT
    assert results["resharded"]["identical"]
    assert results["resharded"]["tensors"] == len(results["whole"]["state"])


@pytest.mark.long
@pytest.mark.part("stages")
def test_a_run_in_pipeline_stages_with_a_teacher_goes_on_in_stages_and_on_one_rank(results: dict[str, Any]) -> None:
    stages = results["stages"]
    assert [stages[name]["from"] for name in ("whole", "stopped", "alone")] == [0, STOP, STOP]
    assert stages["identical"], "weights, router, members or optimizer"
    assert stages["stopped"]["losses"] == stages["whole"]["losses"][STOP:]
    assert stages["alone"]["losses"] == pytest.approx(stages["whole"]["losses"][STOP:], rel=LOSS)
    assert max(stages[name]["weights"] for name in ("whole", "alone")) <= WEIGHT
