# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 1 of the tiny recipe in one process, as one of several jobs in a row, for test_tiny.py.

python -m tests.recipes.stop_worker FOLDER OUT [STEP [plain]]: at STEP it gets the signal that Slurm sends before its
limit; `plain` takes it as a job does that is not one of several in a row.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from nemo.lightning import io

STEPS = 6


class Signal(pl.Callback, io.IOMixin):
    """Slurm, in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, out: str, step: int | None = None, in_time: bool = True) -> None:
    import fiddle
    import nemo_run as run

    from nemo_elastic.hosts.common.experiment import job
    from nemo_elastic.hosts.nemo.curriculum.jobs import stop_in_time
    from tests.recipes.stop_worker import Signal
    from tests.recipes.tiny_worker import stage1

    task = stage1(folder, out, STEPS, ranks=1)
    if in_time:
        stop_in_time(task)
    if step is not None:
        task.trainer.callbacks.append(run.Config(Signal, step=step))
    job(fiddle.build(task))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:4]), in_time="plain" not in sys.argv)
