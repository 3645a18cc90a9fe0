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

from nemo_elastic.hosts.common.changes import Changes, made_by
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job, described, job_folder
from nemo_elastic.hosts.common.experiment import Executors as Executors
from nemo_elastic.hosts.common.experiment import run_jobs
from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticResume, StopInTime
from nemo_elastic.hosts.nemo.recipe.apply import change
from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe
from nemo_elastic.plan.stages import PAPER as PAPER
from nemo_elastic.plan.stages import Curriculum as Curriculum
from nemo_elastic.plan.stages import Stage as Stage
from nemo_elastic.slicing.family_folder import slice_family

from .rank import rank_only

#: of checkpoints: `step=11-last` after 12 steps, for NeMo logs the step before it is counted
FILENAME = "{step}"


def ranking_dir(dir: str) -> str:
    """What the ranking says of itself: scores and orders, and the search's trace."""
    return os.path.join(job_folder(dir, "rank"), "elastic")


def ranked_checkpoint(dir: str) -> str:
    """What the ranking leaves, see `rank`."""
    return os.path.join(job_folder(dir, "rank"), "checkpoints", "ranked")


def end_of(log_dir: str, steps: int) -> str:
    """The last checkpoint of a run of so many steps, whose checkpoints are called FILENAME."""
    return os.path.join(log_dir, "checkpoints", f"step={steps - 1}-last")


def stage_checkpoint(dir: str, curriculum: Curriculum, number: int) -> str:
    """What a stage leaves."""
    return end_of(job_folder(dir, f"stage{number}"), curriculum.stage(number).max_steps)


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


def rank_recipe(recipe: run.Partial, own: CurriculumRun) -> run.Partial:
    """A stock recipe of stage 1, in any layout without pipeline stages, turned into the ranking of a run.

    Args:
        recipe: see `rank.rank_only`.
        own: whose ranking it is.
    """
    where = {"out": ranking_dir(own.dir), "checkpoint": ranked_checkpoint(own.dir)}
    return rank_only(recipe, own.block_of("rank"), parent=own.parent, **where)


def stage_recipe(recipe: run.Partial, own: CurriculumRun, job: str) -> run.Partial:
    """A stock recipe of a stage, made elastic and given what it starts from. It is changed in place.

    Args:
        recipe: any recipe that `apply_elastic` takes, with the stage's data, steps and names of checkpoints.
        own: whose stage it is.
        job: stage1 starts from the ranking, others from the end of the one before: weights, router, members and
            optimizer.

    Raises:
        ElasticError: see `apply_elastic`.
    """
    changes = Changes(recipe)
    options = own.options(job, stage_checkpoint(own.dir, own.curriculum, own.before(job)))
    change(recipe, own.block_of(job), options, changes)
    if job == "stage1":
        recipe.resume = run.Config(
            ElasticResume,
            resume_if_exists=True,
            resume_ignore_no_checkpoint=True,
            # there is no optimizer state to go on with: the ranking moved the weights, it did not train them
            restore_config=run.Config(nl.RestoreConfig, path=ranked_checkpoint(own.dir), load_optim_state=False),
        )
    print(changes.text(recipe), flush=True)
    return recipe


def slice_step(own: CurriculumRun) -> run.Partial:
    """The job that cuts the members out of the end of the last stage: one process, no GPU."""
    ranking = own.block.ranking or os.path.join(ranking_dir(own.dir), "ranking")
    end = stage_checkpoint(own.dir, own.curriculum, own.last)
    return run.Partial(slice_family, checkpoint=end, out=own.dir, ranking=ranking)


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
