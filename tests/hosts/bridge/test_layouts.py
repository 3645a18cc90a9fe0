# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family on Megatron-Bridge: every way to lay out two ranks against one, a kill, a second stage, a member cut out.

One process of one rank does what one rank is for, one of two ranks all layouts; a third goes on where the first was
killed. They leave checkpoints and metrics, which are compared here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.formats.megatron.context import read_context
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.formats.registry import open_source
from tests.hosts.bridge.runs import Job, dump
from tests.parallel.runs import PEAK, Layout
from tests.workers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.dist]
pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
#: relative, of a loss; and of a weight, in steps of the optimizer: as in tests/parallel
LOSS, WEIGHT = 1e-4, 1e-3
STEPS = 2
PAIRS = {
    "dp2": Layout(data=2, micro_batches=2),
    "dp2-soft-sharded": Layout(data=2, sharded=True, micro_batches=2, soft=True),
    "tp2-sp": Layout(tensor=2, sequence=True, micro_batches=2),
    "tp2-sp-soft": Layout(tensor=2, sequence=True, micro_batches=2, soft=True, recompute="full"),
    "pp2": Layout(pipeline=2, micro_batches=4),
    "pp2-soft": Layout(pipeline=2, micro_batches=4, soft=True, mode="frozen_ce"),
}


def ranks(place: Path, name: str, jobs: list[Job], world: int = 1) -> list[int]:
    """Do jobs in one process per rank; their exit codes. What they said is in PLACE/name.log."""
    ports = " ".join(map(str, free_ports(len(jobs))))
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive",
                        "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "PORTS": ports}  # fmt: skip
    listed = dump(jobs, place / f"{name}.json")
    module = ["tests.support.bridge", "-m", "tests.hosts.bridge.runs"]
    with (place / f"{name}.log").open("w") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", *module, str(place), str(listed)],
                cwd=ROOT, env=env | {"RANK": str(i), "LOCAL_RANK": str(i)}, stdout=log, stderr=log,
            )
            for i in range(world)
        ]  # fmt: skip
        try:
            return [process.wait(timeout=1500) for process in started]
        finally:
            for process in started:
                process.kill()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bridge")

    def done(name: str, jobs: list[Job], world: int = 1, code: int = 0) -> None:
        left = ranks(place, name, jobs, world)
        assert left == [code] * world, (place / f"{name}.log").read_text()[-4000:]

    parent = str(place / "parent" / "checkpoints")

    def ranked(layout: Layout) -> str:
        return str(place / f"rank-{layout.soft}" / "checkpoints")

    def stage(name: str, layout: Layout, **more: Any) -> Job:
        more = {"steps": STEPS, "teacher": parent, "ranked": ranked(layout)} | more
        return Job(str(place / name), layout=layout, **more)

    alone = {f"{name}-alone": layout.alone for name, layout in PAIRS.items()}
    one = [
        Job(str(place / "parent"), kind="parent", steps=2),
        *(Job(str(place / f"rank-{soft}"), kind="rank", layout=Layout(soft=soft), teacher=parent, steps=2)
          for soft in (False, True)),
        *(stage(name, layout) for name, layout in alone.items()),
        stage("whole", Layout(soft=True), steps=4),
        stage("killed", Layout(soft=True), steps=4, save_every=1, until=3),
    ]  # fmt: skip
    done("one", one, code=-signal.SIGKILL)
    end = {"kind": "stage2", "done": STEPS, "steps": 2, "longer": True, "ranked": None}
    two = [stage(name, layout) for name, layout in PAIRS.items()]
    two += [stage("second-dp2", PAIRS["dp2"], previous=str(place / "tp2-sp" / "checkpoints"), **end)]
    done("two", two, world=2)
    again = [
        stage("killed", Layout(soft=True), steps=4, save_every=1),
        stage("second", PAIRS["dp2"].alone, previous=str(place / "tp2-sp-alone" / "checkpoints"), **end),
    ]
    done("again", again)
    return place


def lines(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    text = (run / "checkpoints" / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def losses(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines(run)]


def same(found: Path, wanted: Path) -> None:
    """The same budgets were drawn, lost the same, and left the same weights, router and members."""
    for one, other in zip(losses(found), losses(wanted), strict=True):
        assert one == pytest.approx(other, rel=LOSS)
    ours, theirs = (Stored(run / "checkpoints").held() for run in (found, wanted))
    ours, theirs = ({k: v for k, v in t.items() if not k.startswith("optimizer.")} for t in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if value.is_floating_point():
            assert float((value - theirs[name]).abs().max()) <= WEIGHT * PEAK, name
        else:
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("name", PAIRS)
def test_two_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / f"{name}-alone")


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(place: Path) -> None:
    told = (place / "again.log").read_text()
    assert "at iteration 3" in told
    assert losses(place / "killed") == losses(place / "whole")
    assert [line["step"] for line in lines(place / "killed")] == [1, 2, 3, 4]
    found, wanted = (Stored(place / name / "checkpoints").held() for name in ("killed", "whole"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_a_second_stage_goes_on_in_another_layout(place: Path) -> None:
    same(place / "second-dp2", place / "second")
    first, *_, last = lines(place / "second")
    assert (first["step"], last["step"]) == (1, 2)
    assert first["lr"] < PEAK and last["lr"] < first["lr"]  # the schedule goes on, too


def test_every_member_is_validated_each_time_on_the_same_data(place: Path) -> None:
    first, again = lines(place / "whole", "heldout")  # at the last step, and at the end of the run
    assert list(first["losses"]) == ["full", "large", "small"] and first["kl"].keys() == first["losses"].keys()
    assert first["losses"] == again["losses"]
    assert len(set(first["losses"].values())) == 3


def test_a_checkpoint_is_a_family_with_its_block(place: Path) -> None:
    source = open_source(place / "whole" / "checkpoints")
    assert source.family is not None and [m.name for m in source.family] == ["full", "large", "small"]
    block = read_context(place / "whole" / "checkpoints").elastic
    assert block is not None and block["budgets"][2] == {"name": "small", "ratio": 0.65} | {
        k: v for k, v in block["budgets"][2].items() if k not in ("name", "ratio")
    }
