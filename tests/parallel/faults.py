# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs to which something happens: kills at random, a dead rank, values that are not finite, a full disk, checkpoints
that are damaged or made to harm. `test_faults.py` asserts, `soak.py` goes on for long."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from tests.parallel import forks
from tests.parallel.compare import digests, weights
from tests.parallel.forks import CLEAR
from tests.parallel.nemo import parent, run, watch_samples
from tests.parallel.runs import Job, Layout, do, prepare

#: kills that have to hit something
KILLS = 8
STAGES = (6, 4)
STEPS = 4


def each(out: str, steps: int = STEPS, save_every: int | None = 1, ends: int | None = None, **more: Any) -> Job:
    """A run that saves after every step, however it ends."""
    return Job(out, steps=steps, save_every=save_every, ends=ends, **more)


# ------------------------------------------------------------------------------------------------------ random kills


def curriculum(place: Path, out: str, cutting: bool = False) -> dict[str, Any]:
    """Both stages with a checkpoint after every step, and the members cut if asked to; each goes on where it stopped,
    and what is done is passed by."""
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from nemo_elastic.slicing.family_folder import slice_family

    first, second = STAGES
    facts = run(place, each(f"{out}/one", steps=first))
    run(
        place, each(f"{out}/two", kind="stage2", steps=second, done=first, previous=(f"{out}/one", first), longer=True)
    )
    if cutting:
        (place / out / "cutting").touch()
        slice_family(str(last_checkpoint(place / out / "two")), str(place / out / "cut"))
    return facts


def undisturbed(place: Path, **how: Any) -> tuple[float, dict[str, str]]:
    """How long a curriculum takes that nobody kills, and what it ends with."""
    began = time.monotonic()
    forks.run(place / "log" / "quiet", 1, curriculum, place, "quiet", **how)
    return time.monotonic() - began, digests(place / "quiet" / "two")


def survive(
    place: Path, out: str, rng: random.Random, took: float, hits: Counter[str], enough: Callable[[], bool], **how: Any
) -> bool:
    """Start and kill a curriculum until that is enough, or it ends before; whether what it went on from at last was
    its newest whole checkpoint."""
    while True:
        before, last = last_step(place / out / "one"), enough()
        ranks = forks.start(place / "log" / out, 1, curriculum, place, out, **how)
        hits["starts"] += 1
        (code,) = ranks.wait() if last else ranks.wait_or_kill(rng.uniform(0.02, 0.5) * took)
        if code == 0:
            # a stage 1 that was done does not start
            return ranks.result().get("from", STAGES[0]) == before
        assert code == -9, ranks.said()
        hits[where(place / out)] += 1


def kills(place: Path) -> dict[str, Any]:
    """Kill until enough kills have hit something; then every run ends as one that nobody killed."""
    rng, hits = random.Random(0), Counter[str]()
    took, wanted = undisturbed(place)
    ends, went_on = [], []

    def enough() -> bool:
        return hits.total() - hits["starts"] >= KILLS and {"save", "hand-over or stage 2"} <= hits.keys()

    while not enough() and hits["starts"] < 10 * KILLS:
        out = f"killed-{len(ends)}"
        went_on.append(survive(place, out, rng, took, hits, enough))
        ends.append(digests(place / out / "two") == wanted)
    starts = hits.pop("starts")
    return {"hits": hits, "runs": ends, "went on": went_on, "starts": starts}


def last_step(run: Path) -> int:
    """Steps of the newest whole checkpoint; 0 where there is none."""
    from nemo_elastic.hosts.common.checkpoints import NEMO

    files = NEMO.whole(run / "checkpoints")
    return int(files[-1].name.removeprefix("step=").removesuffix("-last")) + 1 if files else 0


def where(out: Path) -> str:
    """What a kill has interrupted, from what it left."""
    saving = [stage for stage in ("one", "two") if list((out / stage / "checkpoints").glob("*-unfinished"))]
    if saving:
        return "save"
    if (out / "cutting").exists():
        return "cutting"
    if not (out / "one" / "checkpoints").exists():
        return "start"
    done = list((out / "one" / "checkpoints").glob(f"step={STAGES[0] - 1}-last"))
    return "hand-over or stage 2" if done else "stage 1"


# ------------------------------------------------------------------------------------------------------- not finite


def poison(layer: int, value: float, *, budget: int, step: int | None, gradient: bool = False, rank: int = 0) -> None:
    """Let what a layer adds to the stream, or its gradient, be multiplied by a value where a budget runs."""

    def hook(model: Any) -> None:
        if not hasattr(model, "poisoned"):
            model.poisoned = True
            for module in model.host.core.decoder.layers:
                if module.layer_number - 1 == layer:
                    module.mixer.register_forward_hook(partial(changed, model))

    def changed(model: Any, module: Any, args: Any, y: Any) -> Any:
        hit = model.host.state.choice == model.members.get()[budget] and step in (None, model.trainer.global_step)
        if hit and gradient and y.requires_grad:
            y.register_hook(lambda grad: grad * value)
        return y * value if hit and not gradient else y

    if int(os.environ["RANK"]) == rank:
        watch_samples(hook)


def at_step(step: int, happens: Callable[[Any], Any]) -> None:
    """Let something happen to the model in a step."""
    watch_samples(lambda model: happens(model) if model.host.step == step else None)


def break_weight(model: Any) -> None:
    model.host.core.decoder.layers[4].mixer.D.data[0] = float("nan")


def not_finite(place: Path, only: Collection[str]) -> dict[str, Any]:
    """What each run says, and what it leaves; all, or those that are named."""
    first: dict[str, Any] = {"layer": 4, "value": float("nan"), "budget": 2, "step": None}
    infinite, second = first | {"gradient": True, "value": float("inf")}, {"rank": 1}
    skip = {"changes": {"nonfinite": {"action": "skip", "limit": 2}}}
    runs: dict[str, tuple[Any, dict[str, Any]]] = {
        "stops": (first, {}),
        "skips": (first | {"step": 0}, skip),
        "too-many": (first, skip | {"layout": Layout(micro_batches=4)}),
        "gradient": (infinite, {}),
        "ranks": (first | second, {"layout": Layout(tensor=2)}),
        "replicas": (first | second, {"layout": Layout(data=2)}),
        "stages": (first | second, {"layout": Layout(pipeline=2, teacher=False)}),
        "a stage's gradient": (infinite | second, {"layout": Layout(pipeline=2)}),
        "weight": (None, {}),
    }
    results: dict[str, Any] = {}
    for name, (how, more) in runs.items():
        if not only or name in only:
            before = partial(at_step, 1, break_weight) if how is None else partial(poison, **how)
            (results[name],) = do(place, each(name, save_every=None, before=before, **more))
            if results[name]["codes"] == [0]:
                results[name]["finite"] = all(bool(v.isfinite().all()) for v in weights(place / name).values())
    return results


# ----------------------------------------------------------------------------------------- a dead rank, a full disk


def dead_rank(place: Path) -> dict[str, Any]:
    """Kill one of two ranks in the middle of training: after two steps without a checkpoint, and later with one."""
    results = {}
    for name, layout, every in (("tensor", Layout(tensor=2), 1000), ("data", Layout(data=2), 3)):
        job = each(f"dead-{name}", layout=layout, steps=10_000, save_every=every)
        ranks = forks.start(place / "log" / job.out, 2, run, place, job)
        metrics = place / job.out / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count('"kind": "step"') < 5:
            time.sleep(0.02)
        ranks.kill(1)
        began = time.monotonic()
        codes = ranks.wait()
        results[name] = {"codes": codes, "said": ranks.said(), "seconds": time.monotonic() - began}
    return results


def cramp(bytes_: int, model: Any = None) -> None:
    """No file may be longer than so much from here on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def full_disk(place: Path) -> dict[str, Any]:
    """A save that finds no room; then there is room again."""
    results: dict[str, Any] = {}
    for bytes_ in (2_000, 40_000):
        out = f"full-{bytes_}"
        first, again = do(place, each(out, before=partial(at_step, 2, partial(cramp, bytes_)), ends=CLEAR), each(out))
        results[str(bytes_)] = first | {"from": again["facts"][0]["from"], "same": same_as_roomy(place, out)}
    return results


def same_as_roomy(place: Path, out: str) -> bool:
    """Whether a run has ended as one to which nothing has happened."""
    return digests(place / out) == digests(place / "roomy")


# ----------------------------------------------------------------------------- damaged checkpoints, and hostile ones


def cut(path: Path) -> None:
    """As a file system that ran full, or a copy that was stopped, leaves a file."""
    os.truncate(path, path.stat().st_size * 2 // 3)


#: what happens to the newest of two checkpoints, and to both; more damage is in tests/hosts/common/test_checkpoints.py
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut weights": lambda p: cut(p / "weights" / "__0_1.distcp"),
    "both": lambda p: (p / "weights" / "common.pt").unlink(),
}


def damaged(place: Path, only: Collection[str]) -> dict[str, Any]:
    """A run that did not end well, and something has happened to the newest of its two checkpoints, or to both."""
    actual = {}
    for name, hurt in DAMAGE.items():
        if only and name not in only:
            continue
        out = f"damaged-{name.replace(' ', '-')}"
        shutil.copytree(place / "roomy" / "checkpoints", place / out / "checkpoints", symlinks=True)
        for checkpoint in sorted((place / out / "checkpoints").glob("*-last"))[0 if name == "both" else 1 :]:
            hurt(checkpoint)
        (actual[name],) = do(place, each(out))
        if actual[name]["codes"] == [0]:
            actual[name] |= {"from": actual[name]["facts"][0]["from"], "same": same_as_roomy(place, out)}
    return actual


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
    """All, or the parts that are named."""
    prepare(place)
    do(place, each("roomy", ends=0))
    every: dict[str, Callable[[Path], dict[str, Any]]] = {
        "not finite": lambda place: not_finite(place, parts), "disk": full_disk,
        "damaged": lambda place: damaged(place, parts),
        "async": asynchronous, "hostile": hostile, "dead": dead_rank, "kills": kills,
    }  # fmt: skip
    return {name: part(place) for name, part in every.items() if not parts or name in parts}
