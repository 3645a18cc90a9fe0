# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that stop and go on: at every step, in another layout, with another block; `test_resume.py` asserts.

python -m tests.parallel.resume FOLDER PART...: leaves `resume.json`: a run without a stop, and the parts named.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

STEPS = 4
#: step before which a run in pipeline stages is stopped
STOP = 3
#: under the router's masks for two steps, then on slices
SOFT = Layout(soft=True, micro_batches=2)
ROUTER = {"freeze_at": 0.5, "hidden": 16, "soft_share": 1.0}


def stopped_everywhere(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """One run without a stop, and one for every step at which it is to be killed and started again."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    how = {"steps": STEPS, "every": 1, "router": ROUTER}
    results: dict[str, Any] = {}
    for stop in (None, *(step for step in range(1, STEPS) if f"stop {step}" in parts)):
        out = place / f"stop-{stop}"
        if stop is not None:
            ranks = forks.start(out / "log", 1, runs.train, place, out, SOFT, until=stop, **how)
            assert ranks.wait() == [-9], ranks.said()
        (facts,) = forks.run(out / "log", 1, runs.train, place, out, SOFT, **how)
        results[str(stop)] = {**{k: facts[k] for k in ("losses", "from", "samples")}, "state": digests(out)}
    return results


def resharded(place: Path) -> dict[str, Any]:
    """A step on one rank, two on two, one on one again; and what two ranks make of a checkpoint without a step."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import deviation, digests, stored, weights

    alone, moved = place / "stop-None", place / "moved"
    for layout, until in ((Layout, 1), (lambda **k: Layout(tensor=2, sequence=True, **k), STOP), (Layout, None)):
        where = layout(soft=True, micro_batches=2)
        ranks = forks.start(moved / "log", where.world, runs.train, place, moved, where, until=until,
                            steps=STEPS, every=1, router=ROUTER)  # fmt: skip
        codes = ranks.wait()
        assert codes == ([-9] * where.world if until else [0]), ranks.said()
    copied = place / "copied"
    shutil.copytree(alone / "checkpoints", copied / "checkpoints")
    forks.run(copied / "log", 2, save_at_once, place, copied, Layout(tensor=2, soft=True, micro_batches=2))
    return {
        "weights": deviation(weights(moved), weights(alone)) / runs.PEAK,
        "identical": digests(copied / "saved") == digests(alone),
        "tensors": len(stored(copied / "saved")),
        "members": cut_both(alone, copied / "saved", place),
    }


def in_stages(place: Path) -> dict[str, Any]:
    """A run in pipeline stages with a teacher: without a stop, stopped and gone on, and gone on with on one rank."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import deviation, digests, weights

    how, layout = {"steps": STEPS, "every": 1, "router": ROUTER}, replace(SOFT, pipeline=2)
    held = {}
    for name, end in (("whole", layout), ("stopped", layout), ("alone", SOFT)):
        out = place / f"stages-{name}"
        if name != "whole":
            ranks = forks.start(out / "log", layout.world, runs.train, place, out, layout, until=STOP, **how)
            assert ranks.wait() == [-9] * layout.world, ranks.said()
        facts = forks.run(out / "log", end.world, runs.train, place, out, end, **how)[0]
        held[name] = {"from": facts["from"], "losses": facts["losses"]}
    held["identical"] = digests(place / "stages-stopped") == digests(place / "stages-whole")
    for name in ("whole", "alone"):
        held[name]["weights"] = deviation(weights(place / f"stages-{name}"), weights(place / "stop-None")) / runs.PEAK
    return held


def save_at_once(place: Path, out: Path, layout: Layout) -> None:
    """Load what is in `out`, and write it as this layout does, without a step between."""
    import fiddle
    import lightning.pytorch as pl

    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from tests.parallel import runs

    class Saves(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            target = out / "saved" / "checkpoints" / "step=0-last"
            trainer.save_checkpoint(target)
            if trainer.is_global_zero:
                whole = last_checkpoint(out)
                shutil.copytree(whole / "context", target / "context")
            trainer.strategy.barrier()

    runs.quiet()
    task = fiddle.build(runs.elastic_task(place, out, layout, STEPS + 1, 1, router=ROUTER))
    task.keywords["trainer"].callbacks.append(Saves())
    task()


def cut_both(first: Path, second: Path, place: Path) -> bool:
    """Whether a member cut from either checkpoint has the same bytes."""
    from nemo_elastic import slice_checkpoint
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    files = []
    for i, run in enumerate((first, second)):
        out = place / f"cut-{i}"
        slice_checkpoint(last_checkpoint(run), out, member="small")
        files.append((out / "model.safetensors").read_bytes())
    return files[0] == files[1]


def other_blocks(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What a run says that goes on with another block."""
    from tests.parallel import forks, runs

    out = place / "blocks"
    how: dict[str, Any] = {"steps": STEPS, "every": 1}
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 4},
        "axes": {"axes": runs.BLOCK["axes"] | {"hidden": [32, 28, 24]}},
        "sampling": {"sampling": {"full": 1, "large": 1, "small": 2}},
    }
    results = {}
    for name, change in changes.items():
        if name not in parts:
            continue
        shutil.rmtree(out, ignore_errors=True)
        forks.start(out / "log", 1, runs.train, place, out, Layout(), until=1, **how).wait()
        ranks = forks.start(out / "log", 1, runs.train, place, out, Layout(), **how, **change)
        results[name] = {"code": ranks.wait()[0], "said": ranks.said()}
    return results


def main(place: Path, *parts: str) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks, runs

    forks.prepare(place, whole=False)
    for layout, changes in ((Layout(), {}), (SOFT, {"router": ROUTER})):
        out = place / "rank" / layout.name
        forks.run(out, 1, runs.rank, place, out, layout, runs.ranked(place, layout), **changes)
    actual = {"stops": stopped_everywhere(place, parts), "blocks": other_blocks(place, parts)}
    for name, run in {"resharded": resharded, "stages": in_stages}.items():
        if name in parts:
            actual[name] = run(place)
    (place / "resume.json").write_text(json.dumps(actual))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
