# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum: rank → stage 1 → stage 2 (→ stage 3) → slice, each a job that starts from what the one before left.

What a job leaves has a name that is known before it runs, so that all can be submitted as one experiment:

    DIR/rank/elastic                        importance, orders, trace of the search
    DIR/rank/checkpoints/ranked             sorted weights and members
    DIR/stage1/checkpoints/step=5169-last   and found members, optimizer state
    DIR/stage2/checkpoints/step=1789-last
    DIR/family, DIR/members/NAME            Hugging Face folders
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import nemo_run as run
from nemo import lightning as nl

from nemo_elastic.hosts.common.changes import made_by
from nemo_elastic.hosts.common.curriculum_run import Job, described
from nemo_elastic.hosts.common.experiment import Executors as Executors
from nemo_elastic.hosts.common.experiment import run_jobs
from nemo_elastic.hosts.nemo.checkpoint.resume import FILENAME, StopInTime
from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe
from nemo_elastic.plan.stages import PAPER as PAPER
from nemo_elastic.plan.stages import Curriculum as Curriculum
from nemo_elastic.plan.stages import Stage as Stage


def end_of(log_dir: str, steps: int) -> str:
    """The last checkpoint of a run of so many steps, whose checkpoints are called FILENAME."""
    return os.path.join(log_dir, "checkpoints", f"step={steps - 1}-last")


def checkpoints(every: int) -> run.Config:
    """NeMo's checkpoints with names that are known beforehand. As `ElasticCheckpoint` writes them, two are kept.

    Args:
        every: steps between them. A new one is whole before the one before it goes.
    """
    return run.Config(
        nl.ModelCheckpoint,
        filename=FILENAME,
        save_last=True,
        save_top_k=0,
        every_n_train_steps=every,
        save_optim_on_train_end=True,
    )


def run_family(name: str, jobs: Mapping[str, run.Partial], executors: Executors, **how: Any) -> None:
    """Run jobs as one experiment, each after the one before it has succeeded.

    Args:
        jobs: NeMo's tasks by name, in order.
        name, executors, how: see `hosts.common.experiment.run_jobs`.

    Raises:
        ElasticError: a job failed; the folder of the dry run may not be written.
    """
    run_jobs(name, described_jobs(jobs), executors, **how)


def described_jobs(jobs: Mapping[str, run.Partial]) -> dict[str, Job]:
    """Tasks with the machines and the ranks that each one's recipe has, whatever was changed in it."""
    return {name: described(NemoRecipe(task), task, stop_in_time) for name, task in jobs.items()}


def stop_in_time(task: run.Partial, code: int) -> None:
    """Have a training that `StopInTime` ends leave with this exit code."""
    for callback in task.trainer.callbacks:
        if made_by(callback) is StopInTime:
            callback.code = code
