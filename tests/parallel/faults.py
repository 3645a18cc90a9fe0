# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs to which something happens: a dead rank, values that are not finite, a full disk, checkpoints that are damaged
or made to harm. `test_faults.py` asserts; kills at random are those of `soak.py`."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from tests.parallel import forks
from tests.parallel.compare import digests, weights
from tests.parallel.forks import CLEAR
from tests.parallel.nemo import parent, run, watch_samples
from tests.parallel.runs import Job, Layout, do, prepare

STEPS = 4
#: bytes of a file on a full disk: more than the log has, less than the weights
ROOM = 40_000


def each(out: str, steps: int = STEPS, save_every: int | None = 1, ends: int | None = None, **more: Any) -> Job:
    """A run that saves after every step, however it ends."""
    return Job(out, steps=steps, save_every=save_every, ends=ends, **more)


# ------------------------------------------------------------------------------------------------------- not finite


def poison(value: float, step: int | None = None, gradient: bool = False, rank: int = 0) -> None:
    """Let what the fifth layer adds to the stream, or its gradient, be multiplied by a value where `small` runs."""

    def hook(model: Any) -> None:
        if not hasattr(model, "poisoned"):
            model.poisoned = True
            for module in model.host.core.decoder.layers:
                if module.layer_number == 5:
                    module.mixer.register_forward_hook(partial(changed, model))

    def changed(model: Any, module: Any, args: Any, y: Any) -> Any:
        hit = model.host.state.choice == model.members.get()[2] and step in (None, model.trainer.global_step)
        if hit and gradient and y.requires_grad:
            y.register_hook(lambda grad: grad * value)
        return y * value if hit and not gradient else y

    if int(os.environ["RANK"]) == rank:
        watch_samples(hook)


def at_step(step: int, happens: Callable[[Any], Any]) -> None:
    """Let something happen to the model in a step."""
    watch_samples(lambda model: happens(model) if model.host.step == step else None)


def not_finite(place: Path, only: Collection[str]) -> dict[str, Any]:
    """What each run that is named says, and what it leaves."""
    skip = {"changes": {"nonfinite": {"action": "skip", "limit": 2}}}
    runs: dict[str, tuple[Callable[[], None], dict[str, Any]]] = {
        "skips": (partial(poison, float("nan"), step=0), skip),
        "ranks": (partial(poison, float("nan"), rank=1), {"layout": Layout(tensor=2)}),
        "a stage's gradient": (partial(poison, float("inf"), gradient=True, rank=1), {"layout": Layout(pipeline=2)}),
    }
    results: dict[str, Any] = {}
    for name, (before, more) in runs.items():
        if name in only:
            (results[name],) = do(place, each(name, save_every=None, before=before, **more))
            if results[name]["codes"] == [0]:
                results[name]["finite"] = all(bool(v.isfinite().all()) for v in weights(place / name).values())
    return results


# ----------------------------------------------------------------------------------------- a dead rank, a full disk


def dead_rank(place: Path) -> dict[str, Any]:
    """Kill one of two ranks in the middle of training."""
    job = each("dead", layout=Layout(data=2), steps=10_000, save_every=3)
    ranks = forks.start(place / "log" / job.out, 2, run, place, job)
    metrics = place / job.out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count('"kind": "step"') < 5:
        time.sleep(0.02)
    ranks.kill(1)
    began = time.monotonic()
    return {"codes": ranks.wait(), "said": ranks.said(), "seconds": time.monotonic() - began}


def cramp(model: Any) -> None:
    """No file may be longer than `ROOM` from here on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def full_disk(place: Path) -> dict[str, Any]:
    """A save that finds no room; then there is room again."""
    first, again = do(place, each("full", before=partial(at_step, 2, cramp), ends=CLEAR), each("full"))
    return first | {"from": again["facts"][0]["from"], "same": same_as_roomy(place, "full")}


def same_as_roomy(place: Path, out: str) -> bool:
    """Whether a run has ended as one to which nothing has happened."""
    return digests(place / out) == digests(place / "roomy")


# ----------------------------------------------------------------------------- damaged checkpoints, and hostile ones


def cut(path: Path) -> None:
    """As a file system that ran full, or a copy that was stopped, leaves a file."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def damaged(place: Path) -> dict[str, Any]:
    """A run whose newest checkpoint is cut; more damage is in tests/hosts/common/test_checkpoints.py."""
    shutil.copytree(place / "roomy" / "checkpoints", place / "damaged" / "checkpoints", symlinks=True)
    cut(sorted((place / "damaged" / "checkpoints").glob("*-last"))[-1] / "weights" / "__0_1.distcp")
    (ran,) = do(place, each("damaged", ends=0))
    return ran | {"from": ran["facts"][0]["from"], "same": same_as_roomy(place, "damaged")}


def asynchronous(place: Path) -> dict[str, Any]:
    """Two ranks that write their checkpoints while they train on: what is kept and listed."""
    from nemo_elastic.hosts.common.checkpoints import LIST, NEMO

    def stock(task: Any) -> None:
        task.trainer.strategy.ckpt_async_save = True

    whole, forks.write_without_a_helper = forks.write_without_a_helper, lambda: None
    try:
        (ran,) = do(place, each("asynchronous", layout=Layout(data=2), stock=stock, ends=0))
    finally:
        forks.write_without_a_helper = whole
    files = NEMO.whole(place / "asynchronous" / "checkpoints")
    listed = [sorted(json.loads((c / LIST).read_text())["files"]) for c in files]
    return {"left": ran["left"], "whole": [c.name for c in files], "listed": listed}


def hostile(place: Path) -> dict[str, Any]:
    """Runs that start from a checkpoint, or distill from one, whose metadata makes a folder when it is unpickled."""
    from tests.hosts.nemo.poison import with_template

    actual = {}
    for name in ("start", "teacher", "resume"):
        out = f"hostile-{name}"
        sources = {"start": place / "rank-even" / "ranked", "teacher": parent(place), "resume": place / "roomy"}
        target = {"start": place / "rank-hostile" / "ranked", "resume": place / out}.get(name, place / "taught")
        shutil.copytree(sources[name], target, symlinks=True)
        for listed in target.rglob("elastic_files.json"):
            listed.unlink()  # whoever makes one that harms gives no list, or another
        for metadata in target.rglob(".metadata"):
            metadata.write_bytes(with_template(metadata.read_bytes(), place / f"ran-{name}"))
        more = {"start": {"ranked": "rank-hostile"}, "teacher": {"teacher": target}}.get(name, {})
        (actual[name],) = do(place, each(out, **more))
        actual[name]["ran"] = (place / f"ran-{name}").exists()
    return actual


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """The parts that are named."""
    from tests.parallel.soak import soak

    prepare(place)
    do(place, each("roomy", ends=0))
    every: dict[str, Callable[[Path], dict[str, Any]]] = {
        "not finite": lambda place: not_finite(place, parts), "disk": full_disk, "damaged": damaged,
        "async": asynchronous, "hostile": hostile, "dead": dead_rank, "kills": lambda place: soak(0, 0, place),
    }  # fmt: skip
    return {name: part(place) for name, part in every.items() if name in parts}
