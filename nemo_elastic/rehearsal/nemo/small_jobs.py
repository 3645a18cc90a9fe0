# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal on NeMo, in order: a parent, and the recipe's own, of which stage 1 is started twice."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import nemo_run as run

from nemo_elastic.hosts.common.changes import settings
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, job_folder
from nemo_elastic.hosts.nemo.curriculum.jobs import FILENAME, as_job, end_of, ranked_checkpoint, stage_checkpoint
from nemo_elastic.hosts.nemo.curriculum.large import FamilyRecipe
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.rehearsal.report import Settings
from nemo_elastic.rehearsal.short import CUT_SHORT, PARENT_STEPS, Built, Short, parent_run, watch_dir

from .watch import Watch


def parent_of(dir: str) -> str:
    """What the parent's own training leaves."""
    return end_of(job_folder(dir, "parent"), PARENT_STEPS)


def rehearsal_jobs(family: FamilyRecipe, real: CurriculumRun, own: CurriculumRun, short: Short) -> Built:
    """All jobs of a rehearsal's run, `own`; all that it has of the `real` one is in it."""
    jobs: dict[str, Any] = {"parent": parent_job(family, parent_run(own, short))}
    for name, job in family.build_all(own).items():
        if name == "stage1":
            jobs[CUT_SHORT] = watched(job.clone(), watch_dir(own.dir, name), own.save_every + 1)
        jobs[name] = watched(job, watch_dir(own.dir, name)) if name.startswith("stage") else job
    steps = {name: getattr(getattr(job, "trainer", None), "max_steps", 0) for name, job in jobs.items()}
    return Built({name: as_job(job) for name, job in jobs.items()}, steps, _settings(jobs), left_by(own))


def left_by(own: CurriculumRun) -> dict[str, str]:
    """What the jobs of a run leave that run a model."""
    stages = {f"stage{number}": stage_checkpoint(own.dir, own.curriculum, number) for number in range(1, own.last + 1)}
    return {"rank": ranked_checkpoint(own.dir), **stages}


def settings_of(family: FamilyRecipe, run: CurriculumRun) -> Settings:
    """Settings of all jobs of a run."""
    with contextlib.redirect_stdout(io.StringIO()):  # what `apply_elastic` changes in each
        return _settings(family.build_all(run))


def _settings(jobs: Mapping[str, run.Partial]) -> Settings:
    return {name: settings(task) for name, task in jobs.items()}


def parent_job(family: FamilyRecipe, own: CurriculumRun) -> run.Partial:
    """Train the narrow parent for a moment, by NeMo's own recipe of it."""
    recipe = family.stock_recipe("parent", own)
    recipe.model.config.mamba_stack_spec = elastic_stack_spec
    recipe.trainer.callbacks = []
    recipe.trainer.strategy.ddp.overlap_grad_reduce = False
    recipe.log.ckpt.filename = FILENAME
    return recipe


def watched(job: run.Partial, out: str, stop_after: int | None = None) -> run.Partial:
    """A training job that writes down what it starts and ends with."""
    job.trainer.callbacks = [*job.trainer.callbacks, run.Config(Watch, out=out, stop_after=stop_after)]
    return job
