# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family of a tiny Nemotron-H, in fp32 on a CPU: every job of the large recipes, in layouts that are fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nemo_run

from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job, job_folder
from nemo_elastic.hosts.common.tiny import PARENT_STEPS
from nemo_elastic.hosts.nemo.curriculum.jobs import described_jobs, end_of
from nemo_elastic.hosts.nemo.curriculum.large import FamilyRecipe

from .recipe import tiny_recipe


@dataclass(frozen=True)
class TinyFamily(FamilyRecipe):
    """One whose stock recipe is `tiny_recipe`, of the config that `stock` names; its data are one folder.

    The ranking's processes hold the parent whole, as those of its own training do. Both stages share it out with
    sequence parallelism, the second with activation recomputation.

    Attributes:
        parent_steps: of the parent's own training, which is a job where the parent of a run is `own_parent`.
    """

    parent_steps: int = PARENT_STEPS

    def own_parent(self, dir: str) -> str:
        """What the parent's own training leaves."""
        return end_of(job_folder(dir, "parent"), self.parent_steps)

    def planned(self, run: CurriculumRun) -> CurriculumRun:
        return run

    def described(self, run: CurriculumRun) -> dict[str, Job]:
        jobs = super().described(run)
        if run.parent != self.own_parent(run.dir):
            return jobs
        recipe = self._recipe(
            "parent", run, steps=self.parent_steps, seq_length=256, global_batch_size=8, micro_batch_size=4
        )
        return described_jobs({"parent": recipe}) | jobs

    def stock_recipe(self, job: str, run: CurriculumRun) -> nemo_run.Partial:
        stage, trains = run.stage(job), job != "rank"
        batch = stage.global_batch_size
        recipe = self._recipe(
            job, run, steps=stage.max_steps, seq_length=stage.seq_length, global_batch_size=batch,
            micro_batch_size=stage.micro_batch_size if trains else batch // run.devices,
            split="train_long" if job == "stage2" else "train",
            tensor_parallel=run.devices if trains else 1,
        )  # fmt: skip
        recipe.trainer.strategy.sequence_parallel = trains and run.devices > 1
        if job == "stage2":
            config = recipe.model.config
            config.recompute_granularity, config.recompute_method, config.recompute_num_layers = "full", "uniform", 1
        return recipe

    def _recipe(self, job: str, run: CurriculumRun, **how: Any) -> nemo_run.Partial:
        (data,), plan = run.data, run.curriculum
        return tiny_recipe(
            data, run.folder(job), label=job, devices=run.devices, config=nemo_run.Config(self.stock),
            lr=plan.lr, warmup_steps=plan.warmup_steps, **how,
        )  # fmt: skip
