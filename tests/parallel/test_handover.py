# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights, router, members and the distributed optimizer's moments go from a layout of ranks to any other, in bf16, as
the planner gives them to stage 2. In float32 within stage 1: `test_resume.py`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.formats.megatron.stored import Stored
from tests.parallel.compare import checkpoint, digests
from tests.parallel.forks import measured
from tests.parallel.nemo import saved_at_start
from tests.parallel.runs import Job, Layout, do, prepare
from tests.parallel.table import HALF_LOSS

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
#: of either stage
STEPS = 3
FIRST = Layout(tensor=2, sequence=True, data=2, sharded=True, soft=True, micro_batches=2, half=True)
#: stage 2: the layout of stage 1, and others
SECOND = {
    "tp2-dp2": FIRST,
    "tp1-dp2": replace(FIRST, tensor=1, sequence=False),
    "tp4-dp1": replace(FIRST, tensor=4, data=1),
}
ROUTER = {"router": {"freeze_at": 0.5, "hidden": Layout.router}}
CHANGES = ROUTER | {"sampling": {"full": 2, "large": 1, "small": 1}}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """Stage 1, and stage 2 in every layout: what it starts from, and its losses."""
    prepare(place)
    do(place, Job("first", layout=FIRST, steps=STEPS, save_every=STEPS, changes=ROUTER))
    results: dict[str, Any] = {}
    for name, layout in SECOND.items():
        start = place / f"{name}-start"
        (ran,) = do(place, Job(name, "stage2", layout, STEPS, previous=("first", STEPS), longer=True,
                               changes=CHANGES, callback=saved_at_start(start)))  # fmt: skip
        results[name] = compared(start, place / "first") | {"losses": ran["facts"][0]["losses"]}
    return results


def compared(start: Path, end: Path) -> dict[str, Any]:
    """What a run starts from against what another has ended with: every tensor, by its name and its bytes."""
    actual, wanted = digests(start), digests(end)
    stored = Stored(checkpoint(end))
    moments = {name: value for name, value in stored.read_all("optimizer.state.").items() if "exp_avg" in name}
    return {
        "other": sorted(name for name in actual.keys() | wanted.keys() if actual.get(name) != wanted.get(name)),
        "moments": len(moments),
        "of the router": sum("elastic.router" in name for name in moments),
        "zeros": sorted(name for name, value in moments.items() if not value.any()),
        "kinds": sorted({str(value.dtype) for value in stored.read_all().values()}),
    }


place = measured(measure)


@pytest.mark.parametrize("layout", SECOND)
def test_stage_2_starts_with_the_bytes_that_stage_1_left_and_goes_on_as_in_its_layout(
    results: dict[str, Any], layout: str
) -> None:
    run = results[layout]
    assert run["other"] == []
    assert run["moments"] > run["of the router"] > 0
    assert run["zeros"] == [], "nothing was to be lost"
    assert "torch.bfloat16" in run["kinds"]
    assert len(run["losses"]) == STEPS
    assert run["losses"] == pytest.approx(results["tp2-dp2"]["losses"], rel=HALF_LOSS)
