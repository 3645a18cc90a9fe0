# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal on NeMo, and what watches them.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import nemo_run as run
from nemo.lightning.io import IOMixin

from nemo_elastic.hosts.common.changes import settings
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job, job_folder
from nemo_elastic.hosts.nemo.checkpoint.resume import folder_of
from nemo_elastic.hosts.nemo.curriculum.jobs import described_jobs, end_of, ranked_checkpoint, stage_checkpoint
from nemo_elastic.hosts.nemo.curriculum.large import FamilyRecipe
from nemo_elastic.megatron.spec import elastic_stack_spec

from .report import Settings
from .short import CUT_SHORT, PARENT_STEPS, Short, parent_run, watch_dir
from .watch import Watch, link


class NemoWatch(pl.Callback, IOMixin):
    """A `Watch` of NeMo's trainer, with its arguments."""

    def __init__(self, out: str, stop_after: int | None = None) -> None:
        self.watch = Watch(out, stop_after)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        own = trainer.ckpt_path
        fresh = own is None and pl_module.stage == 1  # a new optimizer has no moments yet
        self.watch.begin(
            trainer.global_step,
            lambda place: trainer.save_checkpoint(place, weights_only=fresh),
            None if own is None else lambda place: link(folder_of(str(own)), place),
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watch.reached(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        assert trainer.val_dataloaders is not None
        self.watch.end(trainer.global_step, pl_module.steps, trainer.val_dataloaders.dataset)


def parent_of(dir: str) -> str:
    """What the parent's own training leaves."""
    return end_of(job_folder(dir, "parent"), PARENT_STEPS)


def left_by(own: CurriculumRun) -> dict[str, str]:
    """What the jobs of a run leave that run a model."""
    stages = {f"stage{number}": stage_checkpoint(own.dir, own.curriculum, number) for number in range(1, own.last + 1)}
    return {"rank": ranked_checkpoint(own.dir), **stages}


def rehearsal_jobs(
    family: FamilyRecipe, real: CurriculumRun, own: CurriculumRun, short: Short
) -> tuple[dict[str, Job], Settings]:
    """All jobs of a rehearsal's run, `own`, and their settings. It has all that it needs of the `real` one."""
    jobs: dict[str, Any] = {"parent": parent_job(family, parent_run(own, short))}
    for name, job in family.build_all(own).items():
        if name == "stage1":
            jobs[CUT_SHORT] = watched(job.clone(), watch_dir(own.dir, name), own.save_every + 1)
        jobs[name] = watched(job, watch_dir(own.dir, name)) if name.startswith("stage") else job
    return described_jobs(jobs), _settings(jobs)


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
    return recipe


def watched(job: run.Partial, out: str, stop_after: int | None = None) -> run.Partial:
    """A training job that writes down what it starts and ends with."""
    job.trainer.callbacks = [*job.trainer.callbacks, run.Config(NemoWatch, out=out, stop_after=stop_after)]
    return job
