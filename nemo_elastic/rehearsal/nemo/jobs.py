# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal, in order: a parent, and the recipe's own, of which stage 1 is started twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nemo_run as run

from nemo_elastic.hosts.nemo.curriculum.jobs import FILENAME, as_job, end_of, inside
from nemo_elastic.hosts.nemo.curriculum.large import FamilyRecipe
from nemo_elastic.hosts.nemo.recipe.settings import settings
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.plan.curriculum import Curriculum, Stage
from nemo_elastic.rehearsal.built import THERE, Built
from nemo_elastic.rehearsal.changes import Change, changes
from nemo_elastic.rehearsal.places import data_dir, text_of, watch_dir
from nemo_elastic.rehearsal.short import CUT_SHORT, PARENT_BATCH, PARENT_LR, PARENT_STEPS, Machines, Short

from .declared import DECLARED
from .family import SmallFamily
from .watch import Watch


def build(family: FamilyRecipe, dir: str, short: Short, machines: Machines) -> Built:
    """A rehearsal's jobs, and what differs in them from the recipe's own."""
    small = SmallFamily.of(family, short, machines)
    own = family.jobs(
        *THERE, num_nodes=machines.nodes, num_gpus_per_node=machines.devices, gpu=machines.gpu,
        curriculum=machines.curriculum,
    )  # fmt: skip
    jobs = rehearsal_jobs(small, dir)
    steps = {name: getattr(getattr(job, "trainer", None), "max_steps", 0) for name, job in jobs.items()}
    return Built(small.small, {name: as_job(job) for name, job in jobs.items()}, steps, compared(own, jobs))


def compared(recipe: Mapping[str, run.Partial], rehearsal: Mapping[str, run.Partial]) -> list[Change]:
    """`rehearsal.changes.changes` of NeMo's tasks."""
    before, after = ({name: settings(task) for name, task in jobs.items()} for jobs in (recipe, rehearsal))
    return changes(before, after, DECLARED)


def parent_job(family: SmallFamily, data: dict[str, list[str]], dir: str, tokenizer: str) -> run.Partial:
    """Train the narrow parent for a moment, by NeMo's own recipe of it: a model that has learned nothing has nothing
    to rank, to teach, or to lose.
    """
    ranks = family.short.ranks
    stage = Stage(family.short.seq_length, PARENT_BATCH, PARENT_STEPS, micro_batch_size=max(1, PARENT_BATCH // ranks))
    curriculum = Curriculum(stage, stage, lr=PARENT_LR, warmup_steps=PARENT_STEPS // 10)
    recipe = family.stock_recipe("parent", data, dir, ranks, stage, curriculum, tokenizer)
    recipe.model.config.mamba_stack_spec = elastic_stack_spec
    recipe.trainer.callbacks = []
    recipe.trainer.limit_val_batches = 0
    recipe.trainer.strategy.ddp.overlap_grad_reduce = False
    recipe.log.ckpt.filename = FILENAME
    recipe.log.ckpt.every_n_train_steps = PARENT_STEPS
    return recipe


def rehearsal_jobs(family: SmallFamily, dir: str) -> dict[str, run.Partial]:
    """All jobs by name.

    Args:
        family: what is rehearsed.
        dir: folder for everything, an absolute path, in which text and tokenizer are made before the jobs start.
    """
    data, text = data_dir(dir), text_of(dir)
    jobs: dict[str, Any] = {"parent": parent_job(family, text, dir, f"{data}/tokenizer")}
    parent = end_of(inside(dir, "parent"), PARENT_STEPS)
    own = family.jobs(
        parent,
        text,
        dir,
        long_data=text_of(dir, "train_long"),
        num_nodes=1,
        num_gpus_per_node=family.short.ranks,
        curriculum=family.small.curriculum,
        tokenizer=f"{data}/tokenizer",
    )
    every = own["stage1"].log.ckpt.every_n_train_steps
    for name, job in own.items():
        if name == "stage1":
            jobs[CUT_SHORT] = watched(job.clone(), watch_dir(dir, name), every + 1)
        jobs[name] = watched(job, watch_dir(dir, name)) if name.startswith("stage") else job
    return jobs


def watched(job: run.Partial, out: str, stop_after: int | None = None) -> run.Partial:
    """A training job that writes down what it starts and ends with."""
    job.trainer.callbacks = [*job.trainer.callbacks, run.Config(Watch, out=out, stop_after=stop_after)]
    return job
