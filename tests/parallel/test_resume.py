# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run that was killed and started again is the run that was not; and the rules of `checkpoint.resume`."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import LOSS, WEIGHT, deviation, digests, weights
from tests.parallel.forks import CLEAR, measured
from tests.parallel.nemo import saved_at_start
from tests.parallel.runs import BLOCK, PEAK, Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
STEPS = 4
#: step before which a run in pipeline stages is stopped
STOP = 3
#: under the router's masks for two steps, then on slices
SOFT = Layout(soft=True, micro_batches=2)
ROUTER: dict[str, Any] = {"router": {"freeze_at": 0.5, "hidden": 16}}


def job(out: str, layout: Layout, changes: Any = ROUTER, steps: int = STEPS, **more: Any) -> Job:
    return Job(out, layout=layout, changes=changes, steps=steps, save_every=1, **more)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place, whole=False)
    rank, *_ = do(place, Job("rank-even", "rank"), Job("rank-router", "rank", SOFT, changes=ROUTER))
    actual: dict[str, Any] = {"stops": stopped_everywhere(place, parts, "stop", SOFT, ROUTER)}
    actual["read"] = rank["facts"][0]["read"]
    axes = {"axes": BLOCK["axes"] | {"hidden": [32, 28, 24]}}
    actual["axes"] = do(place, job("axes", Layout(), {}, until=1), job("axes", Layout(), axes, ends=CLEAR))[1]
    for name, run in {"resharded": resharded, "stages": in_stages}.items():
        if name in parts:
            actual[name] = run(place)
    return actual


def stopped_everywhere(
    place: Path, parts: Collection[str], name: str, layout: Layout, changes: dict[str, Any]
) -> dict[str, Any]:
    """One run without a stop, and one for every step at which it is to be killed and started again."""
    results: dict[str, Any] = {}
    for stop in (None, *(step for step in range(1, STEPS) if f"{name} {step}" in parts)):
        out = f"{name}-{stop}"
        if stop is not None:
            do(place, job(out, layout, changes, until=stop))
        (facts,) = do(place, job(out, layout, changes))[0]["facts"]
        results[str(stop)] = {**{k: facts[k] for k in ("losses", "from", "samples", "learned", "read")},
                              "state": digests(place / out)}  # fmt: skip
    return results


def resharded(place: Path) -> dict[str, Any]:
    """A step on one rank, two on two, one on one again; and what two ranks make of a checkpoint without a step."""
    alone, two = place / "stop-None", replace(SOFT, tensor=2)
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
        held[name]["weights"] = deviation(weights(place / out), weights(place / "stop-None")) / PEAK
    held["identical"] = digests(place / "stages-stopped") == digests(place / "stages-whole")
    return held


place = measured(measure)


@pytest.mark.parametrize(
    "stop", [pytest.param(step, marks=part(f"stop {step}", long=step != STEPS // 2)) for step in range(1, STEPS)]
)
def test_stopped_anywhere_it_ends_bit_for_bit_the_same(results: dict[str, Any], stop: int) -> None:
    whole, resumed = results["stops"]["None"], results["stops"][str(stop)]
    assert (whole["from"], resumed["from"]) == (0, stop)
    assert resumed["losses"] == whole["losses"][stop:]
    assert resumed["samples"] == [d for d in whole["samples"] if d[0] >= stop]
    assert resumed["state"] == whole["state"], "weights, router, members or optimizer"
    assert results["read"] == ["student"], "a ranking starts from the parent"
    assert whole["read"] == resumed["read"] == ["teacher"], "NeMo loads the ranking's checkpoint, or the run's own"


def test_the_runs_had_soft_steps_sliced_ones_and_an_optimizer(results: dict[str, Any]) -> None:
    whole = results["stops"]["None"]
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
    assert results["resharded"]["tensors"] == len(results["stops"]["None"]["state"])


@pytest.mark.long
@pytest.mark.part("stages")
def test_a_run_in_pipeline_stages_with_a_teacher_goes_on_in_stages_and_on_one_rank(results: dict[str, Any]) -> None:
    stages = results["stages"]
    assert [stages[name]["from"] for name in ("whole", "stopped", "alone")] == [0, STOP, STOP]
    assert stages["identical"], "weights, router, members or optimizer"
    assert stages["stopped"]["losses"] == stages["whole"]["losses"][STOP:]
    assert stages["alone"]["losses"] == pytest.approx(stages["whole"]["losses"][STOP:], rel=LOSS)
    assert max(stages[name]["weights"] for name in ("whole", "alone")) <= WEIGHT


def test_another_block_is_refused_with_the_difference(results: dict[str, Any]) -> None:
    """What is refused and what is taken over: tests/hosts/common/test_same_family.py."""
    (line,) = results["axes"]["said"][0].splitlines()
    assert line.startswith("error: resume: ")
    assert "elastic.axes.hidden.choices: [32, 28, 24, 20] -> [32, 28, 24]" in line
