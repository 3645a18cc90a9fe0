# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rates over a stop, a hand-over and a change of the recipe's, as the optimizer has them; and how far a stage went."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.train.training import Rates
from tests.hosts.here import ON_BRIDGE
from tests.parallel.forks import CLEAR, measured
from tests.parallel.runs import PEAK, Job, Layout, do, prepare

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
#: of either stage, and of the first before it is stopped
STEPS, STOP = 3, 2
#: the router's peak rate, and of the recipe's a share
ROUTER, HALF = 4e-3, 0.5
#: of embedding and head in stage 2, where the host has such, and at the end of the schedule
DECOUPLED = (1e-2, 4e-3)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """Stage 1, the same stopped and gone on with at another rate, and stage 2 at that."""
    prepare(place, whole=False)
    slow: dict[str, Any] = {"stock": slower}
    end = {"kind": "stage2", "previous": ("whole", STEPS), **slow}
    jobs = {
        "whole": job(place, "whole"),
        "stopped": job(place, "stopped", until=STOP),
        "early": job(place, "early", kind="stage2", previous=("stopped", STOP), ends=CLEAR),
        "again": job(place, "stopped", **slow),
        "second": job(place, "second", until=STOP, **end),
        "second again": job(place, "second", **end),
    }
    results = dict(zip(jobs, do(place, *jobs.values()), strict=True))
    rates = {run: [json.loads(line) for line in (place / f"{run}.rates").read_text().splitlines()]
             for run in ("whole", "stopped", "second")}  # fmt: skip
    return {"rates": rates, "early": results["early"]["said"][0]}


def job(place: Path, out: str, kind: str = "stage1", **more: Any) -> Job:
    changes = {"router": {"hidden": Layout.router, "lr": ROUTER}}
    ranked = None if kind == "stage1" else ""
    return Job(out, kind, Layout(soft=True, sharded=True), STEPS, ranked=ranked, save_every=1, changes=changes,
               before=partial(watch, place / f"{out}.rates"), **more)  # fmt: skip


def watch(file: Path) -> None:
    """Write down the rates of every step: the router's, and the others."""
    from nemo_elastic.megatron.router_optim import RouterClip, is_router_group

    stock = RouterClip.step_with_ready_grads

    def step(self: Any) -> bool:
        groups = [(is_router_group(group), group["lr"]) for group in self._optimizer.param_groups if group["params"]]
        rates = {str(router): sorted({lr for one, lr in groups if one is router}) for router in (True, False)}
        with file.open("a") as out:
            out.write(json.dumps(rates) + "\n")
        return stock(self)

    RouterClip.step_with_ready_grads = step


def slower(recipe: Any) -> None:
    """Let a host's recipe have other rates."""
    optimizer = recipe.optimizer if ON_BRIDGE else recipe.optim.config
    optimizer.lr *= HALF
    if ON_BRIDGE:
        optimizer.min_lr *= HALF
        optimizer.decoupled_lr, optimizer.decoupled_min_lr = DECOUPLED
        recipe.logger.tensorboard_dir = None


place = measured(measure)


def expected(first: int, last: int, peak: float, done: int = 0) -> list[list[float]]:
    """The model's rates in steps of a stage, in order of size."""
    rates = Rates(done + STEPS, 1).after(done, STEPS)
    peaks = [(peak, None), *([DECOUPLED] if ON_BRIDGE and peak != PEAK else [])]
    return [[pytest.approx(rates.model(step, *each)) for each in peaks] for step in range(first, last)]


def test_a_run_goes_on_at_the_rates_that_its_recipe_has_now(results: dict[str, Any]) -> None:
    whole, stopped = results["rates"]["whole"], results["rates"]["stopped"]
    assert [step["False"] for step in whole] == expected(0, STEPS, PEAK)
    assert [step["False"] for step in stopped] == expected(0, STOP, PEAK) + expected(STOP, STEPS, HALF * PEAK)
    router = [pytest.approx([ROUTER * (step + 1) / 20]) for step in range(STEPS)]
    assert [step["True"] for step in whole] == [step["True"] for step in stopped] == router


def test_a_second_stage_knows_the_steps_of_the_first_also_after_a_stop(results: dict[str, Any]) -> None:
    second = results["rates"]["second"]
    assert [step["False"] for step in second] == expected(0, STEPS, HALF * PEAK, done=STEPS)
    assert [step["True"] for step in second] == [[0.0]] * STEPS


def test_a_stage_that_was_not_trained_to_its_end_is_not_handed_over(results: dict[str, Any]) -> None:
    (line,) = [line for line in results["early"].splitlines() if line.startswith("error: ")]
    assert line.startswith("error: previous: ") and f"step {STOP} of {STEPS}" in line
