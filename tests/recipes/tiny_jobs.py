# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny recipe for test_tiny.py, as a user's script starts them.

python -m tests.recipes.tiny_jobs RUN FOLDER: RUN is a function below; it needs FOLDER/data and
FOLDER/elastic.yaml.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import nemo_run as run
from nemo.lightning import io

from nemo_elastic.hosts.common.experiment import local_executor
from nemo_elastic.hosts.common.tiny import TINY
from nemo_elastic.hosts.nemo.checkpoint.resume import StopInTime
from nemo_elastic.hosts.nemo.curriculum.jobs import run_family
from nemo_elastic.hosts.nemo.tiny.family import TinyFamily
from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

STEPS, PARENT_STEPS = (8, 6), 4
#: of `local`: steps between checkpoints, and the step in which Ctrl-C comes
EVERY, PRESSED = 2, 5


class Press(pl.Callback, io.IOMixin):
    """Ctrl-C on the terminal of the script, in a step that is not done before it is heard."""

    def __init__(self, script: int) -> None:
        self.script = script

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == PRESSED and trainer.global_rank == 0:
            os.kill(self.script, signal.SIGINT)
            (stops,) = (one for one in trainer.callbacks if isinstance(one, StopInTime))
            end = time.monotonic() + 120
            while not stops.ctrl_c.pressed and time.monotonic() < end:
                time.sleep(0.1)


def family_of(folder: Path) -> TinyFamily:
    return TinyFamily("tiny", TinyNemotronH, "nemotron-h-tiny", folder / "elastic.yaml", parent_steps=PARENT_STEPS)


def whole(folder: Path) -> None:
    """All jobs, fewer steps of everything."""
    from torchx.runner import Runner

    wait = Runner.wait  # NeMo-Run looks every 2 s
    Runner.wait = lambda self, job, wait_interval=10: wait(self, job, min(0.2, wait_interval))
    first = replace(TINY.stage1, max_steps=STEPS[0], global_batch_size=4, micro_batch_size=2)
    second = replace(TINY.stage2, max_steps=STEPS[1], seq_length=256, global_batch_size=2, micro_batch_size=2)
    family, dir = family_of(folder), str(folder / "tiny")
    family.family_experiment(
        family.own_parent(dir), [str(folder / "data")], dir, local_executor, num_nodes=1, num_gpus_per_node=2,
        curriculum=replace(TINY, stage1=first, stage2=second, warmup_steps=2),
    )  # fmt: skip


def leave(path: str) -> None:
    """What the job behind stage 1 does."""
    os.mkdir(path)


def family_experiment(parent: str, data: list[str], dir: str, executors: Any, **_: Any) -> None:
    """Under this name `run.py` calls what a recipe runs."""
    from tests.recipes import tiny_jobs  # whose classes the jobs find by their names

    folder = Path(data[0]).parent
    family = family_of(folder)
    first = replace(TINY.stage1, max_steps=STEPS[0], global_batch_size=4, micro_batch_size=4)
    stage = family.job(
        "stage1", family.own_parent(str(folder / "tiny")), data, dir, curriculum=replace(TINY, stage1=first),
        num_nodes=1, num_gpus_per_node=2,
    )  # fmt: skip
    stage.log.ckpt.every_n_train_steps = EVERY
    if (folder / "press").exists():
        stage.trainer.callbacks.append(run.Config(tiny_jobs.Press, script=os.getpid()))
    run_family("local", {"stage1": stage, "behind": run.Partial(tiny_jobs.leave, path=f"{dir}/behind")}, executors)


def local(folder: Path) -> None:
    """`recipes/run.py --local`, with a recipe of two short jobs; Ctrl-C comes where there is FOLDER/press."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
    import run as script

    own: Any = SimpleNamespace(family=lambda name: SimpleNamespace(family_experiment=family_experiment))
    script.FAMILIES["short"] = own
    given = {"recipe": "short", "parent": "-", "data": str(folder / "data"), "dir": str(folder / "local")}
    script.main(["--local", *(word for name, value in given.items() for word in (f"--{name}", value))])


if __name__ == "__main__":
    from tests.recipes import tiny_jobs

    getattr(tiny_jobs, sys.argv[1])(Path(sys.argv[2]))
