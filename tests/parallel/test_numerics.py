# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two hundred steps in bf16 beside the same in float32; and what happens to weights that no step touches."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import lines
from tests.parallel.forks import measured
from tests.parallel.runs import Job, Layout, do, prepare

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
STEPS, SHORT = 200, 5
#: bf16 against float32: mean loss and gradient norm of fifty steps, relative; held-out loss, in nats
LOSS, NORM, HELDOUT = 0.01, 0.02, 1e-3


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """Losses of every step and, at the end, held-out ones of every member; and see `untouched`."""
    prepare(place)
    results: dict[str, Any] = {}
    for name, half in (("single", False), ("half", True)):
        do(place, Job(name, layout=Layout(micro_batches=2, half=half), steps=STEPS, stock=validates))
        steps, heldout = lines(place / name), lines(place / name, "heldout")
        results[name] = {
            "losses": [x["reduced_train_loss"] for x in steps], "norms": [x["grad_norm"] for x in steps],
            "end": heldout[-1]["losses"], "taught": [heldout[0]["kl"], heldout[-1]["kl"]],
        }  # fmt: skip
    small = {"sampling": {"full": 0, "large": 0, "small": 1}}
    report = place / "untouched.json"
    do(place, Job("untouched", steps=SHORT, changes=small, callback=lambda: untouched(report)))
    return results | {"untouched": json.loads(report.read_text())}


def validates(task: Any) -> None:
    from nemo_elastic.hosts.nemo.tiny.recipe import held_out

    held_out(task, 0, 16)


def untouched(report: Path) -> Any:
    """A callback that writes down the factors and moments of weights outside of the smallest member."""
    import lightning.pytorch as pl

    results: dict[str, Any] = {"rates": []}

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.before = {k: p.detach().clone() for k, p in module.host.core.named_parameters()}

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            results["rates"].append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_end(self, trainer: Any, module: Any) -> None:
            small = module.members.get()[2]
            optimizer = trainer.optimizers[0].mcore_optimizer.optimizer
            params = dict(module.host.core.named_parameters())
            head, norm = "output_layer.weight", "decoder.final_norm.weight"
            for name, outside in (
                (head, (slice(None), slice(small.hidden, None))),
                (norm, (slice(small.hidden, None),)),
            ):
                after, before = params[name].detach()[outside], self.before[name][outside]
                moments = optimizer.state[params[name]]
                results[name] = {
                    "factor": [float((after / before).min()), float((after / before).max())],
                    "moments": max(float(moments[k][outside].abs().max()) for k in ("exp_avg", "exp_avg_sq")),
                    "inside": float((params[name].detach() - self.before[name]).abs().max()),
                }
            results["decay"] = trainer.optimizers[0].mcore_optimizer.config.weight_decay
            report.write_text(json.dumps(results))

    return Watch()


place = measured(measure)


@pytest.mark.parametrize("first", range(0, STEPS, 50))
def test_bf16_stays_within_the_band_around_float32(results: dict[str, Any], first: int) -> None:
    single, half = results["single"], results["half"]
    assert len(single["losses"]) == len(half["losses"]) == STEPS
    for key, band in (("losses", LOSS), ("norms", NORM)):
        means = [statistics.mean(run[key][first : first + 50]) for run in (half, single)]
        assert means[0] == pytest.approx(means[1], rel=band), key
    assert half["losses"] != single["losses"], "both ran in one precision"


def test_members_end_alike_in_both_precisions(results: dict[str, Any]) -> None:
    single, half = results["single"], results["half"]
    assert half["end"] == pytest.approx(single["end"], abs=HELDOUT)
    first, last = (kl["small"] for kl in single["taught"])
    assert last < 0.8 * first, "nothing was learned"


def test_weights_that_no_step_touches_decay_and_do_nothing_else(results: dict[str, Any]) -> None:
    run = results["untouched"]
    decayed = math.prod(1 - rate * run["decay"] for rate in run["rates"])
    assert len(run["rates"]) == SHORT
    for name, factor in (("output_layer.weight", decayed), ("decoder.final_norm.weight", 1.0)):
        assert run[name]["factor"] == pytest.approx([factor, factor], rel=2e-6), name
        assert run[name]["moments"] == 0.0
        assert run[name]["inside"] > 1e-4, "the member did not train"
