# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs to which something happens: kills at random, a dead rank, values that are not finite, a full disk, checkpoints
that are damaged or made to harm.

python -m tests.parallel.faults FOLDER KILLS [PART...]: leaves `faults.json`, which `test_faults.py` asserts;
of all, or of the parts that are named.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.parallel.runs import Layout

#: of `make faults`; the tests want some of them
KILLS = 32
STAGES = (6, 4)
STEPS = 4
#: of Linux's prctl: what a dead child leaves becomes ours
SET_CHILD_SUBREAPER = 36


# ------------------------------------------------------------------------------------------------------ random kills


def curriculum(place: Path, out: Path, layout: Layout) -> dict[str, Any]:
    """Both stages with a checkpoint after every step; each goes on where it stopped, and what is done is passed by."""
    from tests.parallel import runs

    first, second = STAGES
    one = out / "one"
    facts = runs.train(place, one, layout, first, every=1)
    runs.second_stage(place, out / "two", layout, one, first, second)
    return facts


def kills(place: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Start and kill until enough kills have hit something; then every run ends as one that nobody killed."""
    from tests.parallel import forks
    from tests.parallel.compare import digests

    layout, rng = Layout(), random.Random(seed)
    began = time.monotonic()
    forks.run(place / "quiet" / "log", 1, curriculum, place, place / "quiet", layout)
    took = time.monotonic() - began
    wanted = digests(place / "quiet" / "two")
    hits: dict[str, int] = {}
    ends, went_on, starts = [], [], 0

    def enough() -> bool:
        return sum(hits.values()) >= count and {"save", "hand-over or stage 2"} <= hits.keys()

    while not enough() and starts < 10 * count:
        out = place / f"killed-{len(ends)}"
        for _ in range(100):
            before, last = last_step(out / "one"), enough()
            ranks = forks.start(out / "log", 1, curriculum, place, out, layout)
            starts += 1
            (code,) = ranks.wait() if last else ranks.wait_or_kill(rng.uniform(0.05, 0.6) * took)
            if code == 0:
                # a stage 1 that was done does not start
                went_on.append(ranks.result().get("from", STAGES[0]) == before)
                break
            assert code == -9, ranks.said()
            hits[where(out)] = hits.get(where(out), 0) + 1
        ends.append(digests(out / "two") == wanted)
    return {"hits": hits, "runs": ends, "went on": went_on, "starts": starts, "seconds": time.monotonic() - began}


def last_step(run: Path) -> int:
    """Steps of the newest whole checkpoint; 0 where there is none."""
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO

    files = NEMO.whole(run / "checkpoints")
    return int(files[-1].name.removeprefix("step=").removesuffix("-last")) + 1 if files else 0


def where(out: Path) -> str:
    """What a kill has interrupted, from what it left."""
    saving = [stage for stage in ("one", "two") if list((out / stage / "checkpoints").glob("*-unfinished"))]
    if saving:
        return "save"
    if not (out / "one" / "checkpoints").exists():
        return "start"
    done = list((out / "one" / "checkpoints").glob(f"step={STAGES[0] - 1}-last"))
    return "hand-over or stage 2" if done else "stage 1"


# ------------------------------------------------------------------------------------------------------- not finite


def poison(layer: int, value: float, *, budget: int, step: int | None, gradient: bool = False, rank: int = 0) -> None:
    """Let what a layer adds to the stream, or its gradient, be multiplied by a value where a budget runs."""
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel

    if int(os.environ["RANK"]) != rank:
        return
    samples = ElasticMambaModel.next_samples

    def watched(self: Any) -> Any:
        if not hasattr(self, "poisoned"):
            self.poisoned = True
            for module in self.host.core.decoder.layers:
                if module.layer_number - 1 == layer:
                    module.mixer.register_forward_hook(partial(changed, self))
        return samples(self)

    def changed(model: Any, module: Any, args: Any, y: Any) -> Any:
        hit = model.host.state.choice == model.members.get()[budget] and step in (None, model.trainer.global_step)
        if hit and gradient and y.requires_grad:
            y.register_hook(lambda grad: grad * value)
        return y * value if hit and not gradient else y

    ElasticMambaModel.next_samples = watched


def poisoned(place: Path, out: Path, layout: Layout, how: dict[str, Any], **more: Any) -> Any:
    """Train with `poison`."""
    from tests.parallel import runs

    poison(**how)
    return runs.train(place, out, layout, **more)


def broken_weight(place: Path, out: Path, layout: Layout) -> Any:
    """Train with a weight that is NaN from the second step on."""
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from tests.parallel import runs

    samples = ElasticMambaModel.next_samples

    def watched(self: Any) -> Any:
        if self.host.step == 1:
            self.host.core.decoder.layers[4].mixer.D.data[0] = float("nan")
        return samples(self)

    ElasticMambaModel.next_samples = watched
    return runs.train(place, out, layout, STEPS)


def not_finite(place: Path, only: Collection[str]) -> dict[str, Any]:
    """What each run says, and what it leaves; all, or those that are named."""
    from tests.parallel import forks
    from tests.parallel.compare import weights

    first = {"layer": 4, "value": float("nan"), "budget": 2}
    skip = {"action": "skip", "limit": 2}
    results: dict[str, Any] = {}

    def attempt(name: str, layout: Layout, function: Callable[..., Any], *args: Any, **more: Any) -> None:
        if only and name not in only:
            return
        ranks = forks.start(place / name / "log", layout.world, function, place, place / name, layout, *args, **more)
        codes = ranks.wait()
        results[name] = {
            "codes": codes, "said": [ranks.said(r) for r in range(layout.world)],
            "left": left(place / name),
        }  # fmt: skip
        if codes == [0]:
            results[name] |= ranks.result()
            results[name]["finite"] = all(bool(v.isfinite().all()) for v in weights(place / name).values())

    one, how = Layout(), {"steps": STEPS}
    attempt("stops", one, poisoned, first | {"step": None}, **how)
    attempt("skips", one, poisoned, first | {"step": 0}, **how, nonfinite=skip)
    attempt("too-many", Layout(micro_batches=4), poisoned, first | {"step": None}, **how, nonfinite=skip)
    attempt("gradient", one, poisoned, first | {"step": None, "gradient": True, "value": float("inf")}, **how)
    attempt("ranks", Layout(tensor=2), poisoned, first | {"step": None, "rank": 1}, **how)
    attempt("replicas", Layout(data=2), poisoned, first | {"step": None, "rank": 1}, **how)
    attempt("stages", Layout(pipeline=2, teacher=False), poisoned, first | {"step": None, "rank": 1}, **how)
    attempt("a stage's gradient", Layout(pipeline=2), poisoned,
            first | {"step": None, "gradient": True, "value": float("inf"), "rank": 1}, **how)  # fmt: skip
    attempt("weight", one, broken_weight)
    return results


# ----------------------------------------------------------------------------------------- a dead rank, a full disk


def dead_rank(place: Path) -> dict[str, Any]:
    """Kill one of two ranks in the middle of training: after two steps without a checkpoint, and later with one."""
    from tests.parallel import forks, runs

    results = {}
    for name, layout, every in (("tensor", Layout(tensor=2), 1000), ("data", Layout(data=2), 3)):
        out = place / f"dead-{name}"
        ranks = forks.start(out / "log", 2, runs.train, place, out, layout, 10_000, every=every)
        metrics = out / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count('"kind": "step"') < 5:
            time.sleep(0.02)
        ranks.kill(1)
        began = time.monotonic()
        codes = ranks.wait()
        results[name] = {"codes": codes, "said": ranks.said(), "seconds": time.monotonic() - began}
    return results


def cramped(place: Path, out: Path, layout: Layout, bytes_: int) -> Any:
    """Train; from the third step on no file may be longer than so much."""
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from tests.parallel import runs

    samples = ElasticMambaModel.next_samples

    def watched(self: Any) -> Any:
        if self.host.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
        return samples(self)

    ElasticMambaModel.next_samples = watched
    return runs.train(place, out, layout, STEPS, every=1)


def full_disk(place: Path) -> dict[str, Any]:
    """A save that finds no room; then there is room again."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    results: dict[str, Any] = {}
    for bytes_ in (2_000, 40_000):
        out = place / f"full-{bytes_}"
        ranks = forks.start(out / "log", 1, cramped, place, out, Layout(), bytes_)
        codes = ranks.wait()
        said, stays = ranks.said(), left(out)
        (again,) = forks.run(out / "log", 1, runs.train, place, out, Layout(), STEPS, every=1)
        same = digests(out) == digests(place / "roomy")
        results[str(bytes_)] = {"codes": codes, "said": said, "left": stays, "from": again["from"], "same": same}
    return results


# ----------------------------------------------------------------------------- damaged checkpoints, and hostile ones


def cut(path: Path) -> None:
    """As a file system that ran full, or a copy that was stopped, leaves a file."""
    os.truncate(path, path.stat().st_size * 2 // 3)


#: what happened to the newest of two checkpoints
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut weights": lambda p: cut(p / "weights" / "__0_1.distcp"),
    "cut metadata": lambda p: cut(p / "weights" / ".metadata"),
    "no common.pt": lambda p: (p / "weights" / "common.pt").unlink(),
    "no metadata.json": lambda p: (p / "weights" / "metadata.json").unlink(),
}


def damaged(place: Path, only: Collection[str]) -> dict[str, Any]:
    """A run that did not end well, and something has happened to the newest of its two checkpoints, or to both."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    base, actual = place / "roomy", {}
    wanted = digests(base)
    for name, hurt in {**DAMAGE, "both": DAMAGE["no common.pt"]}.items():
        if only and name not in only:
            continue
        out = place / f"damaged-{name.replace(' ', '-')}"
        shutil.copytree(base / "checkpoints", out / "checkpoints", symlinks=True)
        for checkpoint in sorted((out / "checkpoints").glob("*-last"))[0 if name == "both" else 1 :]:
            hurt(checkpoint)
        ranks = forks.start(out / "log", 1, runs.train, place, out, Layout(), STEPS, every=1)
        codes = ranks.wait()
        actual[name] = {"codes": codes, "said": ranks.said(), "left": left(out)}
        if codes == [0]:
            actual[name] |= {"from": ranks.result()["from"], "same": digests(out) == wanted}
    return actual


def asynchronous(place: Path) -> dict[str, Any]:
    """Two ranks that write their checkpoints while they train on: what is kept and listed."""
    from nemo_elastic.hosts.common.checkpoints import LIST
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO
    from tests.parallel import forks

    out = place / "asynchronous"
    whole, forks.write_without_a_helper = forks.write_without_a_helper, lambda: None
    try:
        forks.run(out / "log", 2, asynchronous_run, place, out)
    finally:
        forks.write_without_a_helper = whole
    files = NEMO.whole(out / "checkpoints")
    listed = [sorted(json.loads((c / LIST).read_text())["files"]) for c in files]
    return {"left": left(out), "whole": [c.name for c in files], "listed": listed}


def asynchronous_run(place: Path, out: Path) -> Any:
    """Train with asynchronous saves."""
    from tests.parallel import runs

    recipe = runs.recipe

    def changed(*args: Any, **more: Any) -> Any:
        task = recipe(*args, **more)
        task.trainer.strategy.ckpt_async_save = True
        return task

    runs.recipe = changed
    return runs.train(place, out, Layout(data=2), STEPS, every=1)


def left(out: Path) -> list[str]:
    """Checkpoints of a run, and marks of unfinished ones."""
    return sorted(p.name for p in (out / "checkpoints").glob("*"))


def hostile(place: Path) -> dict[str, Any]:
    """Runs that start from a checkpoint, or distill from one, whose metadata makes a folder when it is unpickled."""
    from tests.hosts.nemo.poison import with_template
    from tests.parallel import forks, runs

    actual, ranked = {}, runs.ranked(place, runs.Layout())
    for name in ("start", "teacher", "resume"):
        home = place / f"hostile-{name}"
        out = home / "run"
        out.mkdir(parents=True)
        for kept in ("data", "parent", "rank", ranked.name):
            (home / kept).symlink_to(place / kept)
        source = {"start": ranked, "teacher": runs.parent(place)}.get(name, place / "roomy")
        target = {"start": home / ranked.name, "teacher": home / "taught"}.get(name, out)
        target.unlink() if target.is_symlink() else None
        shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
        for listed in target.rglob("elastic_files.json"):
            listed.unlink()  # whoever makes one that harms gives no list, or another
        for metadata in target.rglob(".metadata"):
            metadata.write_bytes(with_template(metadata.read_bytes(), home / "ran"))
        ranks = forks.start(home / "log", 1, taught, home, out, target if name == "teacher" else None)
        actual[name] = {"codes": ranks.wait(), "said": ranks.said(), "ran": (home / "ran").exists()}
    return actual


def taught(place: Path, out: Path, teacher: Path | None) -> Any:
    """Train with another teacher."""
    from tests.parallel import runs

    if teacher is not None:
        runs.parent = lambda place: teacher
    return runs.train(place, out, Layout(), STEPS, every=1)


def main(place: Path, count: int, *parts: str) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks, runs

    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    forks.prepare(place)
    forks.run(place / "roomy" / "log", 1, runs.train, place, place / "roomy", Layout(), STEPS, every=1)
    every: dict[str, Callable[[Path], dict[str, Any]]] = {
        "not finite": lambda place: not_finite(place, parts), "disk": full_disk,
        "damaged": lambda place: damaged(place, parts),
        "async": asynchronous, "hostile": hostile, "dead": dead_rank, "kills": lambda place: kills(place, count),
    }  # fmt: skip
    actual = {name: part(place) for name, part in every.items() if not parts or name in parts}
    (place / "faults.json").write_text(json.dumps(actual))
    for process in psutil.Process().children(recursive=True):  # a writer or loader outlives the SIGKILL of its rank
        process.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), *sys.argv[3:])
