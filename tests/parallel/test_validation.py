# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every member is validated, in every layout alike, and logged, with the logger of large recipes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import LOSS, lines
from tests.parallel.forks import measured
from tests.parallel.runs import Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
STEPS = 3
LAYOUTS = (
    Layout(tensor=2, sequence=True, soft=True),
    Layout(pipeline=2, teacher=False, micro_batches=4),
)
NAMES = {"full", "large", "small"}
FIRST = LAYOUTS[0]
EACH = pytest.mark.parametrize("layout", [pytest.param(one, marks=part(one.name), id=one.name) for one in LAYOUTS])


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """Train, and validate after every step, or after two; what was sampled, lost and logged."""
    prepare(place)
    layouts = {each.name: each for one in LAYOUTS if one.name in parts for each in (one, one.alone)}
    results: dict[str, Any] = {}
    for name, layout, every in (*((name, layout, 1) for name, layout in layouts.items()), ("seldom", FIRST.alone, 2)):
        job = Job(name, layout=layout, steps=STEPS, save_every=STEPS, validate=every, elastic=to_tensorboard)
        (ran,) = do(place, job)
        events = b"".join(path.read_bytes() for path in sorted((place / name).rglob("events.out.tfevents.*")))
        tags = [f"{kind}/{member}" for kind in ("val_loss", "val_kl") for member in sorted(NAMES)]
        results[name] = {"ranks": ran["facts"], "heldout": lines(place / name, "heldout"),
                         "tags": [tag for tag in tags if tag.encode() in events]}  # fmt: skip
    return results


def to_tensorboard(task: Any) -> None:
    from nemo.collections.llm.recipes.log.default import tensorboard_logger

    task.log.tensorboard = tensorboard_logger(name="run")


place = measured(measure)


@EACH
def test_a_layout_measures_what_one_rank_measures(results: dict[str, Any], layout: Any) -> None:
    ours, alone = (results[of.name]["heldout"] for of in (layout, layout.alone))
    assert [line["step"] for line in ours] == [line["step"] for line in alone] == list(range(STEPS + 1))
    for line, wanted in zip(ours, alone, strict=True):
        assert set(line["losses"]) == NAMES
        # without a teacher of its own a family has its whole model, which is not measured by itself
        assert set(line["kl"]) == (NAMES if layout.teacher else NAMES - {"full"})
        assert line["losses"] == pytest.approx(wanted["losses"], rel=LOSS)
        assert line["kl"] == pytest.approx(wanted["kl"], abs=LOSS)
    assert ours[0]["kl"]["small"] > 10 * LOSS, "the comparison of divergences can fail"
    assert ours[0]["losses"] != ours[-1]["losses"]


@EACH
def test_loggers_and_monitors_get_it(results: dict[str, Any], layout: Any) -> None:
    kinds = {"val_loss": NAMES, "val_kl": NAMES if layout.teacher else NAMES - {"full"}}
    wanted = {f"{kind}/{name}" for kind, names in kinds.items() for name in names}
    assert set(results[layout.name]["tags"]) == wanted
    for rank in results[layout.name]["ranks"]:
        assert set(rank["monitored"]) == wanted | {"val_loss"}, "not on every rank"


@pytest.mark.part(FIRST.name)
def test_validating_changes_nothing_of_the_training(results: dict[str, Any]) -> None:
    (often,), (seldom,) = (results[n]["ranks"] for n in (FIRST.alone.name, "seldom"))
    assert [line["step"] for line in results["seldom"]["heldout"]] == [0, 2, STEPS], "before, when due, and at the end"
    assert all(often["training"]) and len(often["training"]) == STEPS
    for name in ("samples", "losses", "weights"):
        assert often[name] == seldom[name], name
