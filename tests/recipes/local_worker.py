# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`recipes/run.py --local` as a user starts it, with a recipe of two short jobs, for test_tiny.py.

python -m tests.recipes.local_worker FOLDER OUT: stage 1 of the tiny recipe on two ranks of torchrun, then a job that
leaves OUT/behind. Where there is FOLDER/press, Ctrl-C comes in the middle of stage 1.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
from nemo.lightning import io

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
STEPS, EVERY, PRESSED = 8, 2, 5


class Press(pl.Callback, io.IOMixin):
    """Ctrl-C on the terminal of the script, in a step that is not done before it is heard."""

    def __init__(self, script: int) -> None:
        self.script = script

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == PRESSED and trainer.global_rank == 0:
            os.kill(self.script, signal.SIGINT)
            time.sleep(120)


def leave(path: str) -> None:
    """What the job behind stage 1 does."""
    os.mkdir(path)


def family_experiment(parent: str, data: list[str], dir: str, executors: Any, **_: Any) -> None:
    """Under this name `run.py` calls what a recipe runs."""
    import nemo_run as run

    from nemo_elastic.hosts.nemo.curriculum.jobs import run_family
    from tests.recipes.local_worker import Press
    from tests.recipes.tiny_worker import stage1

    folder = Path(data[0]).parent
    stage = stage1(folder, dir, STEPS, ranks=2)
    stage.log.ckpt.every_n_train_steps = EVERY
    if (folder / "press").exists():
        stage.trainer.callbacks.append(run.Config(Press, script=os.getpid()))
    run_family("local", {"stage1": stage, "behind": run.Partial(leave, path=f"{dir}/behind")}, executors)


def main(folder: Path, out: str) -> None:
    import run

    own: Any = SimpleNamespace(family=lambda name: SimpleNamespace(family_experiment=family_experiment))
    run.FAMILIES["short"] = own
    run.main(
        ["--local", "--recipe", "short", "--parent", "-", "--data", str(folder / "data"), "--dir", str(folder / out)]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
