# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal on NeMo, and what watches them.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from typing import Any

import lightning.pytorch as pl
import nemo_run
from nemo.lightning.io import IOMixin

from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from nemo_elastic.hosts.nemo.checkpoint.resume import folder_of
from nemo_elastic.hosts.nemo.curriculum.large import FamilyRecipe
from nemo_elastic.megatron.spec import elastic_stack_spec

from .watch import Watch, link


class NemoWatch(pl.Callback, IOMixin):
    """A `Watch` of NeMo's trainer, with its arguments."""

    def __init__(self, out: str, stop_after: int | None = None) -> None:
        self.watch = Watch(out, stop_after)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        resumed = trainer.ckpt_path
        fresh = resumed is None and pl_module.stage == 1  # a new optimizer has no moments yet
        self.watch.begin(
            trainer.global_step,
            lambda place: trainer.save_checkpoint(place, weights_only=fresh),
            None if resumed is None else lambda place: link(folder_of(str(resumed)), place),
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watch.reached(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        assert trainer.val_dataloaders is not None
        self.watch.end(trainer.global_step, pl_module.loop, trainer.val_dataloaders.dataset)


def parent_recipe(family: FamilyRecipe, run: CurriculumRun) -> nemo_run.Partial:
    """The narrow parent's training for a moment, by NeMo's own recipe of it."""
    recipe = family.stock_recipe("parent", run)
    recipe.model.config.mamba_stack_spec = elastic_stack_spec
    recipe.trainer.callbacks = []
    recipe.trainer.strategy.ddp.overlap_grad_reduce = False
    return recipe


def watched(job: nemo_run.Partial, out: str, stop_after: int | None) -> nemo_run.Partial:
    """A stage with a `Watch`."""
    job = job.clone()
    job.trainer.callbacks = [*job.trainer.callbacks, nemo_run.Config(NemoWatch, out=out, stop_after=stop_after)]
    return job


def task(family: FamilyRecipe, built: nemo_run.Partial, job: str, run: CurriculumRun) -> nemo_run.Partial:
    """What each process of a job calls."""
    return built
