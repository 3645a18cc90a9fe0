# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs in a row that are stopped from outside: their exit codes, what starts after them, and the history they leave.

python -m tests.parallel.stops FOLDER PART...: leaves `stops.json`, which `test_stops.py` asserts: whole and
stopped runs, and the parts that are named.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

STEPS, SECOND, EVERY = 6, 2, 2
#: under the router's masks for three steps, then on slices; few micro-batches, so that no step samples every budget
SOFT = Layout(soft=True, micro_batches=2)
ROUTER = {"freeze_at": 0.5, "hidden": 16}
#: a chain: the last stop is in the last job of the row
ROW = ((1, 0), (3, 0), (4, 75))
#: how a job takes the signal -> its callback
NONE, OURS, STOCK = "none", "ours", "stock"


def train(
    place: Path, out: Path, layout: Layout = SOFT, at: int | None = None, sig: int = signal.SIGTERM, how: str = NONE,
    code: int | None = None, stage: int = 1, elastic: bool = True,
) -> None:  # fmt: skip
    """A stage as a job of `run_family` runs it.

    Args:
        place, out, layout: see `runs`.
        at: step in which this process gets the signal; no signal if None.
        sig, how: the signal, and what takes it.
        code: of `StopInTime`.
        stage: 1, or 2, which starts from the end of stage 1 in the folder beside `out`.
        elastic: else the parent's own training.
    """
    import fiddle
    import lightning.pytorch as pl
    import nemo_run as run
    from nemo.lightning.pytorch.callbacks import PreemptionCallback

    from nemo_elastic.hosts.common.experiment import job
    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints, stop_in_time
    from nemo_elastic.hosts.nemo.tiny.recipe import held_out
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from tests.parallel import runs

    runs.quiet()
    runs.padded()
    if stage == 2:
        task = second(place, out, layout)
    elif elastic:
        task = runs.elastic_task(place, out, layout, STEPS, EVERY, router=ROUTER)
    else:
        task = runs.recipe(place, out, layout, STEPS)
        task.log.ckpt = checkpoints(EVERY)
    held_out(task, EVERY, 4)
    if how == OURS:
        stop_in_time(task, run.LocalExecutor(), *([] if code is None else [code]))
    elif how == STOCK:
        task.trainer.callbacks.append(run.Config(PreemptionCallback))

    class Signal(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == at and trainer.global_rank == 0:
                os.kill(os.getpid(), sig)

    task = fiddle.build(run.Partial(job, task=task))
    task.keywords["task"].keywords["trainer"].callbacks.append(Signal())
    if how == STOCK:
        with cuda_as_cpu():  # it puts a flag on the current device
            task()
    else:
        task()


def second(place: Path, out: Path, layout: Layout) -> Any:
    """Stage 2's recipe."""
    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints, end_of
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from tests.parallel import runs

    stock = runs.recipe(place, out, layout, SECOND)
    stock.log.ckpt = checkpoints(EVERY)
    return apply_elastic(
        stock, runs.block_of(layout, router=ROUTER), stage=2, previous=end_of(str(out.parent / "stage1"), STEPS),
        done_steps=STEPS, total_steps=STEPS + SECOND, teacher=str(runs.parent(place)), out=str(out / "elastic"),
        verbose=False,
    )  # fmt: skip


def attempt(place: Path, out: Path, layout: Layout = SOFT, **how: Any) -> dict[str, Any]:
    """Exit codes of a job's ranks, what the first one said at last, and the whole checkpoints that it left, by age."""
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO
    from tests.parallel import forks

    ranks = forks.start(out / "log", layout.world, train, place, out, layout, **how)
    codes = ranks.wait()
    left = [p.name for p in NEMO.whole(out / "checkpoints")]
    lines = [line for line in ranks.said().splitlines() if line.startswith(("error: ", "stopped: "))]
    return {"codes": codes, "left": left, "lines": lines, "said": ranks.said()[-3000:]}


def history(out: Path) -> list[dict[str, Any]]:
    """The lines of the file itself."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def main(place: Path, *parts: str) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    forks.prepare(place, whole=False)
    forks.run(place / "rank", 1, runs.rank, place, place / "rank", SOFT, runs.ranked(place, SOFT), router=ROUTER)
    results: dict[str, Any] = {}
    whole, row, killed = place / "whole", place / "row", place / "killed"
    results["whole"] = [attempt(place, whole / "stage1"), attempt(place, whole / "stage2", stage=2)]
    results["row"] = [attempt(place, row / "stage1", at=at, how=OURS, code=code) for at, code in ROW]
    results["early"] = attempt(place, row / "stage2", stage=2)
    results["again"] = [attempt(place, row / "stage1", how=OURS, code=0) for _ in range(2)]
    results["after"] = attempt(place, row / "stage2", stage=2)
    if "killed" in parts:
        results["killed"] = [
            attempt(place, killed / "stage1", at=5, sig=signal.SIGKILL), attempt(place, killed / "stage1"),
        ]  # fmt: skip
    for name, how in {
        "terminated": {"at": 2}, "terminated, saved": {"at": 1}, "stock": {"at": 2, "how": STOCK},
        "last step": {"at": STEPS - 1, "how": OURS}, "Ctrl-C": {"at": 2, "sig": signal.SIGINT},
        "ranks": {"at": 2, "how": OURS, "layout": Layout(tensor=2, soft=True, micro_batches=2)},
        "stock model": {"at": 2, "elastic": False},
    }.items():  # fmt: skip
        if name in parts:
            results[name] = attempt(place, place / name, **how)
    stages = {name: place / name / "stage1" for name in ("whole", "row", "killed")}
    stages["stock model"] = place / "stock model"
    results["histories"] = {name: history(out) for name, out in stages.items() if name in results}
    stages = [run / stage for run in (whole, row, killed) for stage in ("stage1", "stage2")]
    results["digests"] = {f"{out.parent.name}-{out.name}": digests(out) for out in stages if out.exists()}
    (place / "stops.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
