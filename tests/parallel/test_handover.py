# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights, router, members and the distributed optimizer's moments go from a layout of ranks to any other: as the
planner gives them to stage 2, and within stage 1. Parts are named `float32 tp1-dp2` and so on."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.formats.megatron.stored import Stored
from tests.parallel.compare import LOSS, checkpoint, digests
from tests.parallel.forks import measured
from tests.parallel.nemo import saved_at_start
from tests.parallel.runs import Job, Layout, do, prepare
from tests.parallel.table import HALF_LOSS
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=2), pytest.mark.long]
#: steps of either stage
DONE, STEPS = 3, 3
FIRST = Layout(tensor=2, sequence=True, data=2, sharded=True, soft=True, micro_batches=2)
#: stage 2: the layout of stage 1, and others
SECOND = {
    "tp2-dp2": FIRST,
    "tp1-dp2": replace(FIRST, tensor=1, sequence=False),
    "tp4-dp1": replace(FIRST, tensor=4, data=1),
}
ROUTER = {"router": {"freeze_at": 0.5, "hidden": Layout.router}}
PRECISIONS = {"float32": LOSS, "bf16": HALF_LOSS}
EACH = pytest.mark.parametrize(
    ("precision", "layout"),
    [pytest.param(p, layout, marks=part(f"{p} {layout}", f"{p} tp2-dp2")) for p in PRECISIONS for layout in SECOND],
)


def by_default(task: Any) -> None:
    """Save as NeMo does by default."""
    task.trainer.strategy.ckpt_optim_fully_reshardable = False


def gathered(task: Any) -> None:
    """Load by the way that needs less memory."""
    task.trainer.strategy.distrib_optim_fully_reshardable_mem_efficient = True


def stage1(out: str, layout: Layout, steps: int = DONE, **more: Any) -> Job:
    return Job(out, layout=layout, steps=steps, save_every=steps, changes=ROUTER, **more)


def stage2(out: str, layout: Layout, first: str, **more: Any) -> Job:
    changes = ROUTER | {"sampling": {"full": 2, "large": 1, "small": 1}}
    return Job(out, "stage2", layout, STEPS, DONE, previous=(first, DONE), save_every=1, longer=True, changes=changes,
               **more)  # fmt: skip


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """The parts of each precision: both stages, and stage 1 that goes on, on fewer ranks or saved with less memory."""
    prepare(place)
    results: dict[str, Any] = {}
    for precision in PRECISIONS:
        wanted = {part.split()[1] for part in parts if part.startswith(precision)}
        if not wanted:
            continue
        half, first = precision == "bf16", f"{precision}-first"
        do(place, stage1(first, replace(FIRST, half=half)))
        again = {"fewer": (replace(FIRST, data=1), None), "gathered": (FIRST, gathered)}
        jobs = [stage2(f"{precision}-{name}", replace(layout, half=half), first)
                for name, layout in SECOND.items() if name in wanted]  # fmt: skip
        for name in again.keys() & wanted:
            shutil.copytree(place / first / "checkpoints", place / f"{precision}-{name}" / "checkpoints")
            jobs.append(stage1(f"{precision}-{name}", again[name][0], DONE + 1, elastic=again[name][1]))
        results[precision] = {}
        for job in jobs:
            start = place / f"{job.out}-start"
            (ran,) = do(place, replace(job, callback=saved_at_start(start)))
            name = job.out.removeprefix(f"{precision}-")
            results[precision][name] = compared(start, place / first) | {"losses": ran["facts"][0]["losses"]}
    if "default" in parts:
        do(place, stage1("default", FIRST, elastic=by_default))
        (ran,) = do(place, stage2("default-second", SECOND["tp1-dp2"], "default", ends=None))
        assert any(ran["codes"])
        results["default"] = ran["said"][0]
    return results


def compared(start: Path, end: Path) -> dict[str, Any]:
    """What a run starts from against what another has ended with: every tensor, by its name and its bytes."""
    actual, wanted = digests(start), digests(end)
    stored = Stored(checkpoint(end))
    moments = {name: value for name, value in stored.held("optimizer.state.").items() if "exp_avg" in name}
    return {
        "other": sorted(name for name in actual.keys() | wanted.keys() if actual.get(name) != wanted.get(name)),
        "moments": len(moments),
        "of the router": sum("elastic.router" in name for name in moments),
        "zeros": sorted(name for name, value in moments.items() if not value.any()),
        "kinds": sorted({str(value.dtype) for value in stored.held().values()}),
    }


place = measured(measure)


@EACH
def test_stage_2_starts_with_the_bytes_that_stage_1_left(results: dict[str, Any], precision: str, layout: str) -> None:
    run = results[precision][layout]
    assert run["other"] == []
    assert run["moments"] > run["of the router"] > 0
    assert run["zeros"] == [], "nothing was to be lost"
    assert ("torch.bfloat16" in run["kinds"]) == (precision == "bf16")


@EACH
def test_it_goes_on_as_in_the_layout_of_stage_1(results: dict[str, Any], precision: str, layout: str) -> None:
    same, other = results[precision]["tp2-dp2"]["losses"], results[precision][layout]["losses"]
    assert len(other) == STEPS
    assert other == pytest.approx(same, rel=PRECISIONS[precision])


@pytest.mark.part("float32 fewer", "float32 gathered")
def test_stage_1_goes_on_with_fewer_data_parallel_ranks(results: dict[str, Any]) -> None:
    fewer = results["float32"]["fewer"]
    assert fewer["other"] == [] and fewer["moments"] and not fewer["zeros"]
    assert fewer["losses"] == pytest.approx(results["float32"]["gathered"]["losses"], rel=LOSS)


@pytest.mark.part("float32 gathered")
def test_the_save_that_needs_no_memory_of_gpus_writes_the_same(results: dict[str, Any]) -> None:
    assert results["float32"]["gathered"]["other"] == []


@pytest.mark.part("default")
def test_what_nemo_saves_by_default_goes_on_in_no_other_layout(results: dict[str, Any]) -> None:
    """Else `apply_elastic` would have nothing to set."""
    assert "re-save the checkpoint with `ckpt_optim_fully_reshardable=True`" in results["default"]
