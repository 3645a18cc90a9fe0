# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal, in order: a parent, and the recipe's own, of which stage 1 is started twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_elastic.hosts.nemo.curriculum.jobs import FILENAME, Curriculum, Stage, end_of, inside
from nemo_elastic.megatron.spec import elastic_stack_spec

from .family import SmallFamily
from .watch import Watch

#: of the parent's training: steps, sequences per step, and rate
PARENT_STEPS, PARENT_BATCH, PARENT_LR = 40, 16, 3e-3
#: the first start of stage 1, which ends without a word
CUT_SHORT = "stage1-killed"


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


def watch_dir(dir: str, job: str) -> str:
    """Where the starts of a training job are told."""
    return str(Path(dir) / "watched" / job)


def data_dir(dir: str) -> str:
    """Where text and tokenizer are made."""
    return inside(dir, "data")


def rehearsal_jobs(family: SmallFamily, dir: str, curriculum: Curriculum) -> dict[str, run.Partial]:
    """All jobs by name.

    Args:
        family: what is rehearsed.
        dir: folder for everything, an absolute path, in which text and tokenizer are made before the jobs start.
        curriculum: the short one.
    """
    data = data_dir(dir)
    text = {"train": [f"{data}/train"], "validation": [f"{data}/val"]}
    jobs: dict[str, Any] = {"parent": parent_job(family, text, dir, f"{data}/tokenizer")}
    parent = end_of(inside(dir, "parent"), PARENT_STEPS)
    own = family.jobs(
        parent,
        text,
        dir,
        long_data=text | {"train": [f"{data}/train_long"]},
        num_nodes=1,
        num_gpus_per_node=family.short.ranks,
        curriculum=curriculum,
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
