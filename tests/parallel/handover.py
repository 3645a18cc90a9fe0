# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 1's optimizer in other layouts of ranks, as the planner gives them to stage 2; `test_handover.py` asserts.

python -m tests.parallel.handover FOLDER PART...: leaves `handover.json`. Parts are named `float32 tp1-dp2` and so on.
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

#: steps of either stage
DONE, STEPS = 3, 3
FIRST = Layout(tensor=2, sequence=True, data=2, sharded=True, soft=True, micro_batches=2)
#: stage 2: the layout of stage 1, and others
SECOND = {
    "tp2-dp2": FIRST,
    "tp1-dp2": replace(FIRST, tensor=1, sequence=False),
    "tp4-dp1": replace(FIRST, tensor=4, data=1),
}
#: going on within stage 1, with fewer data-parallel ranks
FEWER = replace(FIRST, data=1)
ROUTER = {"freeze_at": 0.5, "hidden": Layout.router}


def stage1(place: Path, out: Path, layout: Layout, by_default: bool = False) -> None:
    """Stage 1 to its end; or as NeMo saves by default."""
    from tests.parallel import runs

    task = runs.elastic_task(place, out, layout, DONE, every=DONE, router=ROUTER)
    if by_default:
        task.trainer.strategy.ckpt_optim_fully_reshardable = False
    run(task, out, fresh=True)


def stage2(place: Path, out: Path, layout: Layout, first: Path) -> dict[str, Any]:
    """Stage 2; saves what it starts from, and returns what it lost."""
    from tests.parallel import runs

    return run(runs.second_task(place, out, layout, first, DONE, STEPS, router=ROUTER), out)


def go_on(place: Path, out: Path, layout: Layout, gathered: bool = False) -> dict[str, Any]:
    """One more step of stage 1, in a folder that has its checkpoints; saves what it starts from.

    By the way that needs less memory if asked to.
    """
    from tests.parallel import runs

    task = runs.elastic_task(place, out, layout, DONE + 1, every=DONE + 1, router=ROUTER)
    task.trainer.strategy.distrib_optim_fully_reshardable_mem_efficient = gathered
    return run(task, out)


def run(task: Any, out: Path, fresh: bool = False) -> dict[str, Any]:
    """Run a recipe on this rank; what it starts from is saved before its first step, if there are moments in it."""
    import fiddle
    import lightning.pytorch as pl

    from tests.parallel import runs

    runs.quiet()
    losses: list[float] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            if not fresh:
                trainer.save_checkpoint(out / "start" / "checkpoints" / "step=0-last")

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            losses.append(float(trainer.callback_metrics["reduced_train_loss"]))

    built = fiddle.build(task)
    built.keywords["trainer"].callbacks.append(Watch())
    built()
    return {"losses": losses}


def compared(start: Path, end: Path) -> dict[str, Any]:
    """What a run starts from against what another has ended with: every tensor, by its name and its bytes."""
    from tests.parallel.compare import digests, stored

    actual, wanted = digests(start / "start"), digests(end)
    moments = {name: value for name, value in stored(end, "optimizer.state.").items() if "exp_avg" in name}
    return {
        "other": sorted(name for name in actual.keys() | wanted.keys() if actual.get(name) != wanted.get(name)),
        "moments": len(moments),
        "of the router": sum("elastic.router" in name for name in moments),
        "zeros": sorted(name for name, value in moments.items() if not value.any()),
        "kinds": sorted({str(value.dtype) for value in stored(end).values()}),
    }


def measure(place: Path, precision: str, parts: Collection[str]) -> dict[str, Any]:
    """The parts of one precision: both stages, and stage 1 that goes on, on fewer ranks or saved with less memory."""
    from tests.parallel import forks

    def in_half(layout: Layout) -> Layout:
        return replace(layout, half=half)

    half = precision == "bf16"
    place, root = place / precision, place
    first = place / "first"
    forks.run(first / "log", FIRST.world, stage1, root, first, in_half(FIRST))
    results: dict[str, Any] = {}
    for name, layout in SECOND.items():
        if f"{precision} {name}" not in parts:
            continue
        out = place / name
        ranks = forks.run(out / "log", layout.world, stage2, root, out, in_half(layout), first)
        results[name] = compared(out, first) | ranks[0]
    for name, layout in {"fewer": FEWER, "gathered": FIRST}.items():
        if f"{precision} {name}" not in parts:
            continue
        out, gathered = place / name, name == "gathered"
        shutil.copytree(first / "checkpoints", out / "checkpoints")
        ranks = forks.run(out / "log", layout.world, go_on, root, out, in_half(layout), gathered=gathered)
        results[name] = compared(out, first) | ranks[0]
    return results


def refused(place: Path) -> str:
    """What is said when stage 1 has saved as NeMo does by default, and stage 2 has another layout."""
    from tests.parallel import forks

    first, out = place / "default" / "first", place / "default" / "second"
    forks.run(first / "log", FIRST.world, stage1, place, first, FIRST, by_default=True)
    layout = SECOND["tp1-dp2"]
    ranks = forks.start(out / "log", layout.world, stage2, place, out, layout, first)
    assert any(ranks.wait())
    return ranks.said()


def main(place: Path, *parts: str) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks

    forks.prepare(place)
    results: dict[str, Any] = {
        p: measure(place, p, parts) for p in ("float32", "bf16") if any(part.startswith(p) for part in parts)
    }
    if "default" in parts:
        results["default"] = refused(place)
    (place / "handover.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
