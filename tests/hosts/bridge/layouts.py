# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny family on Megatron-Bridge in every layout of one and two ranks, and what they left, compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.formats.megatron.stored import ELASTIC, Stored
from tests.hosts.bridge.runs import Job, dump, write_prompts
from tests.hosts.common.saves import cut
from tests.parallel.runs import PEAK, VOCAB, Layout, block_of
from tests.workers import ROOT, environment

#: relative, of a loss; and of a weight, in steps of the optimizer: as in tests/parallel
LOSS, WEIGHT = 1e-4, 1e-3
STEPS = 2
#: bytes of a file on a full disk: more than the log has, less than the weights
ROOM = 60_000
#: copies of a killed run whose newest checkpoint is not whole -> what is said of it
DAMAGED = {
    "truncated": r"__0_\d\.distcp has \d+ bytes, not the \d+ that it was saved with",
    "missing": r"__0_\d\.distcp is missing",
}
#: runs that a save has ended -> after which step, and what the next start says of that save
CUT_SHORT = {
    "cut-short": (3, "iter_0000003 is passed over: it was not written to its end; the run goes on from iter_0000002"),
    "cut-short-first": (
        1, "iter_0000001 is passed over: it was not written to its end; the run starts from the beginning",
    ),
}  # fmt: skip
#: what scripts do with an elastic run -> the line that it ends with, before a step is taken
REFUSED = {
    "late": f"recipe.tokenizer.vocab_size: {VOCAB // 4} is not allowed; the teacher's own vocabulary, of {VOCAB} rows",
    "forward_step": "forward_step: 'another' is not allowed; run.forward_step of apply_elastic, which samples members",
    "callbacks": "callbacks: None is not allowed; run.callbacks of apply_elastic: they prepare members",
    "overlap": "recipe.ddp.overlap_grad_reduce: True is not allowed; false, as apply_elastic left it: each of el",
}
#: a vocabulary that is not the parent's
SMALLER = VOCAB // 4
PAIRS = {
    "dp2": Layout(data=2, micro_batches=2, halved=True),
    "dp2-soft-sharded": Layout(data=2, sharded=True, micro_batches=2, soft=True),
    "dp2-overlap": Layout(data=2, micro_batches=2, soft=True, overlap=True),
    "dp2-tp2-sp-overlap": Layout(
        data=2, tensor=2, sequence=True, micro_batches=2, recompute="full", overlap=True, halved=True
    ),
    "dp2-tp2-sp-sharded-overlap": Layout(
        data=2, tensor=2, sequence=True, sharded=True, micro_batches=2, soft=True, overlap=True
    ),
    "tp2-sp": Layout(tensor=2, sequence=True, micro_batches=2, halved=True),
    "tp2-sp-soft": Layout(tensor=2, sequence=True, micro_batches=2, soft=True, recompute="full"),
    "pp2": Layout(pipeline=2, micro_batches=4, halved=True),
    "pp2-soft": Layout(pipeline=2, micro_batches=4, soft=True, mode="frozen_ce"),
    "dp2-per-token": Layout(data=2, micro_batches=2),
    "cp2": Layout(context=2, micro_batches=2, halved=True),
    "cp2-soft-sharded": Layout(context=2, sharded=True, micro_batches=2, soft=True, recompute="full"),
    "cp2-tp2-sp": Layout(context=2, tensor=2, sequence=True, micro_batches=2),
    "cp2-dp2": Layout(context=2, data=2, micro_batches=2, soft=True, mode="frozen_ce"),
    "cp2-pp2": Layout(context=2, pipeline=2, micro_batches=4, halved=True),
    "cp2-per-token": Layout(context=2, micro_batches=2),
}
#: rows of several documents, one to a micro-batch; of four in a step each draws the one member. Its candidates take
#: turns by the number of a micro-batch, of which ranks that share the rows out have fewer
PACKED = {
    "packed-dp2": Layout(data=2, micro_batches=2, mode="frozen_ce"),
    "packed-tp2-sp": Layout(tensor=2, sequence=True, micro_batches=4, recompute="full", mode="frozen_ce", halved=True),
    "packed-pp2": Layout(pipeline=2, micro_batches=4, mode="frozen_ce", halved=True),
    "packed-cp2": Layout(context=2, micro_batches=4, mode="frozen_ce", halved=True),
    "packed-cp2-tp2-sp": Layout(context=2, tensor=2, sequence=True, micro_batches=4, mode="frozen_ce", halved=True),
}
PACKED_ALONE = Layout(micro_batches=4, mode="frozen_ce", halved=True)
ALONE, EVEN = "packed-alone", "packed-alone-even"
#: as Bridge wants it where ranks share conversations out: each token of a step for as much as another
PER_TOKEN = "packed-alone-per-token"
#: of the loss of a token and of a member, where documents are kept apart and where they are not
JOINED = "packed-joined"
#: of the runs that end too soon and go on: the last comparison begins the fourth step, before which one is killed
HALVED = Layout(halved=True)
#: the same in bf16 on two ranks, with the optimizer's state in shares
HALF = Layout(data=2, sharded=True, micro_batches=2, half=True, halved=True)
SOFT = Layout(soft=True)
#: runs, and the same killed before their last step
KILLED = (("whole", "killed", HALVED), ("whole-half", "killed-half", HALF), ("whole-soft", "killed-soft", SOFT))


def do(place: Path, name: str, jobs: list[Job]) -> None:
    """Do jobs, each on its own number of ranks. What they said is in PLACE/name.log.

    Raises:
        AssertionError: one did not end as it should; with the end of what was said.
    """
    listed = dump(jobs, place / f"{name}.json")
    left = processes(place, name, ["tests.hosts.bridge.runs", place, listed])
    codes = json.loads(listed.with_suffix(".codes").read_text()) if left == [0] else left
    assert codes == [job.ends for job in jobs], (place / f"{name}.log").read_text()[-4000:]


def processes(place: Path, name: str, module: list[Any], world: int = 1) -> list[int]:
    """Run a module and its arguments in one process per rank; their exit codes. They said it in PLACE/name.log."""
    env = environment(WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    for old in place.glob(f"{name}.port*"):
        old.unlink()
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.bridge", "-m", *map(str, module)]
    with (place / f"{name}.log").open("w") as log:
        started = [
            subprocess.Popen(
                command, cwd=ROOT, env=env | {"RANK": str(i), "LOCAL_RANK": str(i)}, stdout=log, stderr=log
            )
            for i in range(world)
        ]
        end = time.monotonic() + 1500
        try:  # until all have ended, or one has failed, for which the others would wait
            while None in (codes := [process.poll() for process in started]) and not any(codes):
                assert time.monotonic() < end, f"{name} takes longer than 1500 seconds"
                time.sleep(0.05)
        finally:
            for process in started:
                process.kill()
        return [process.wait() for process in started]


def train_all(place: Path) -> None:
    """Train in `place`: on one rank, where one is killed and one stopped, and in all layouts of two.

    Those that ended too soon then go on, also from copies with a damaged newest checkpoint.

    Raises:
        AssertionError: one failed, with the end of what it said.
    """
    parent = str(place / "parent" / "checkpoints")

    def ranked(layout: Layout) -> str:
        return str(place / f"rank-{shapes(layout)}" / "checkpoints")

    def stage(name: str, layout: Layout, **more: Any) -> Job:
        more = {"steps": STEPS, "teacher": parent, "ranked": ranked(layout), "padded": True} | more
        return Job(str(place / name), layout=layout, **more)

    def packed(name: str, layout: Layout, data: dict[str, Any] | None = None, **more: Any) -> Job:
        changes = {"sampling": {"large": 1}} | ({} if data is None else {"data": data})
        more = {"per_token": layout.context > 1} | more
        return stage(name, layout, batch=layout.data, packed=True, padded=False, changes=changes, **more)

    def pair(name: str, layout: Layout, **more: Any) -> Job:
        return stage(name, layout, per_token="per-token" in name, **more)

    write_prompts(place)
    alone = {f"{name}-alone": layout.alone for name, layout in PAIRS.items()}
    first = [
        Job(str(place / "parent"), kind="parent", steps=2),
        *(Job(str(place / f"rank-{shapes(layout)}"), kind="rank", layout=layout, teacher=parent, steps=2)
          for layout in (Layout(), HALVED, SOFT)),
        *(pair(name, layout) for name, layout in alone.items()),
        packed(ALONE, PACKED_ALONE),
        packed(EVEN, replace(PACKED_ALONE, halved=False)),
        packed(PER_TOKEN, PACKED_ALONE, per_token=True),
        packed(JOINED, PACKED_ALONE, data={"documents": "joined"}),
        *(packed(name, layout) for name, layout in PACKED.items()),
        *(packed(name, Layout(micro_batches=4), few=True, steps=6, save_every=1, until=until)
          for name, until in (("wraps", None), ("wraps-killed", 4))),
        *(stage(whole, layout, steps=4) for whole, _, layout in KILLED),
        *(stage(killed, layout, steps=4, save_every=1, until=3) for _, killed, layout in KILLED),
        stage("stopped", HALVED, steps=4, stop=1),
        *(stage(name, HALVED, steps=4, save_every=1, cut_short=at) for name, (at, _) in CUT_SHORT.items()),
        stage("full", HALVED, steps=4, save_every=1, room=ROOM),
        stage("kept", HALVED, steps=4, save_every=1, kept=1),
        # in one of them the recipe has Bridge's placeholder for a tokenizer, which is smaller than the parent's
        *(pair(name, layout, placeholder=SMALLER if name == "tp2-sp" else None) for name, layout in PAIRS.items()),
        *(stage(name, Layout(), placeholder=SMALLER if name == "late" else None, wrong=name,
                changes={"budgets_per_batch": 2} if name == "overlap" else {}) for name in REFUSED),
    ]  # fmt: skip
    do(place, "first", first)
    for name in DAMAGED:
        shutil.copytree(place / "killed", place / name)
    newest = place / "missing" / "checkpoints" / "iter_0000003"
    next(newest.glob("*.distcp")).unlink()
    cut(next((place / "truncated" / "checkpoints" / "iter_0000003").glob("*.distcp")))
    shutil.copytree(place / "full" / "checkpoints", place / "full-left", symlinks=True)
    end = {"kind": "stage2", "done": STEPS, "steps": 2, "longer": True, "ranked": None}
    later = {"halving": {**block_of(HALVED)["halving"], "cuts": [0.5]}}  # on which no ranking depends
    again = [
        Job(str(place / "rank-halving"), kind="rank", layout=HALVED, teacher=parent, steps=2, changes=later),
        *(stage(killed, layout, steps=4, save_every=1) for _, killed, layout in KILLED),
        *(stage(name, HALVED, steps=4, save_every=1) for name in ("stopped", "full", *DAMAGED, *CUT_SHORT)),
        packed("wraps-killed", Layout(micro_batches=4), few=True, steps=6, save_every=1),
        stage("second", PAIRS["dp2"].alone, previous=str(place / "tp2-sp-alone" / "checkpoints"), **end),
        stage("second-dp2", PAIRS["dp2"], previous=str(place / "tp2-sp" / "checkpoints"), **end),
    ]
    do(place, "again", again)


def shapes(layout: Layout) -> str:
    """The way to shapes of a layout's block."""
    return block_of(layout)["shapes"]


def packed_alone(name: str) -> str:
    """The run of one rank that trains the same as a layout of `PACKED`."""
    if not PACKED[name].halved:
        return EVEN
    return PER_TOKEN if PACKED[name].context > 1 else ALONE


def lines(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    """What a run of either host wrote down."""
    nemo = run / "metrics.jsonl"
    text = (nemo if nemo.exists() else run / "checkpoints" / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def losses(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines(run)]


def compared(line: dict[str, Any]) -> dict[tuple[str, int], float]:
    """Losses of the candidates that were compared before a step, by budget and number."""
    every = line.get("compared", {})
    return {(budget, int(number)): loss for budget, own in every.items() for number, loss in own.items()}


def apart(actual: Path, wanted: Path) -> tuple[float, float]:
    """How far two runs of the same budgets are apart: losses, relative, and weights, in steps of the optimizer.

    Raises:
        AssertionError: other budgets, candidates, members or tensors.
    """
    loss = weight = 0.0
    for one, other in zip(losses(actual), losses(wanted), strict=True):
        assert one.keys() == other.keys()
        loss = max(loss, *(abs(one[name] - other[name]) / abs(other[name]) for name in one))
    for one, other in zip(lines(actual), lines(wanted), strict=True):
        assert one.get("candidates") == other.get("candidates")
        ours, theirs = compared(one), compared(other)
        assert ours.keys() == theirs.keys()
        loss = max([loss, *(abs(ours[name] - theirs[name]) / theirs[name] for name in ours)])
    ours, theirs = (
        dict(zip(stored.sizes, stored.read(*stored.sizes), strict=True))
        for stored in map(Stored, map(checkpoint, (actual, wanted)))
    )
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        difference = float((value.double() - theirs[name].double()).abs().max())
        if name == f"{ELASTIC}losses":
            continue  # bits of the losses above
        assert value.is_floating_point() or difference == 0, name
        weight = max(weight, difference / PEAK)
    return loss, weight


def checkpoint(run: Path) -> Path:
    """The last checkpoint of a run of either host."""
    nemo = sorted((run / "checkpoints").glob("*last"))
    return nemo[-1] if nemo else run / "checkpoints"


def went_on(place: Path, whole: str = "whole", killed: str = "killed") -> None:
    """The run that was killed ended as the one that was not, with the same losses, comparisons and bits."""
    for name in ("candidates", "compared"):
        assert [x.get(name) for x in lines(place / killed)] == [x.get(name) for x in lines(place / whole)]
    assert losses(place / killed) == losses(place / whole)
    actual, wanted = (Stored(place / name / "checkpoints").held() for name in (killed, whole))
    assert actual.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in actual.items())


def same(actual: Path, wanted: Path) -> None:
    """The same budgets were sampled, lost the same, and left the same weights, router and members."""
    loss, weight = apart(actual, wanted)
    assert loss <= LOSS and weight <= WEIGHT
