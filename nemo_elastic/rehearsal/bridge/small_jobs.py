# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal on Megatron-Bridge, in order: a parent, and the recipe's own; stage 1 is started twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import nemo_run
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain

from nemo_elastic.hosts.bridge.apply import ElasticRun, use_our_layers
from nemo_elastic.hosts.bridge.curriculum import (
    BridgeFamily,
    checkpoints,
    described_job,
    family_of,
    plain,
    slice_job,
    train_to_the_end,
)
from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job
from nemo_elastic.rehearsal.report import Settings
from nemo_elastic.rehearsal.short import CUT_SHORT, PARENT_STEPS, Built, Short, parent_run, rehearsed, watch_dir

from .watch import Watch


def parent_of(dir: str) -> str:
    """What the parent's own training leaves."""
    return checkpoints(dir, "parent")


def rehearsal_jobs(family: BridgeFamily, real: CurriculumRun, own: CurriculumRun, short: Short) -> Built:
    """All jobs of a rehearsal's run, `own`, which follows from the `real` one in each process again."""
    runs, ranks = watched_jobs(family, own), short.ranks
    given = {"family": plain(family), "run": real.to_dict(), "short": asdict(short), "dir": own.dir}
    jobs = {"parent": Job(nemo_run.Partial(rehearse_job, job="parent", **given), 1, ranks)}
    steps = {"parent": PARENT_STEPS}
    for name, built in runs.items():
        for title in (CUT_SHORT, name) if name == "stage1" else (name,):
            task = nemo_run.Partial(rehearse_job, job=title, **given)
            jobs[title] = described_job(task, built, 1, ranks, trains=False)
            steps[title] = built.config.train.train_iters
    jobs["slice"] = Job(nemo_run.Partial(slice_job, dir=own.dir, last=own.last))
    return Built(jobs, steps, _settings(runs, own.dir), {name: checkpoints(own.dir, name) for name in runs})


def settings_of(family: BridgeFamily, run: CurriculumRun) -> Settings:
    """Settings of all jobs of a run."""
    return _settings(family.build_all(run), run.dir)


def _settings(runs: Mapping[str, ElasticRun], dir: str) -> Settings:
    return {name: one.settings() for name, one in runs.items()} | {"slice": {"dir": dir}}


def watched_jobs(family: BridgeFamily, own: CurriculumRun) -> dict[str, ElasticRun]:
    """The jobs of a rehearsal's run, each with what watches it."""
    runs = family.build_all(own)
    for name in own.jobs[1:-1]:
        runs[name].callbacks.append(Watch(runs[name].forward_step, watch_dir(own.dir, name)))
    return runs


def train_parent(family: BridgeFamily, own: CurriculumRun) -> None:
    """Train the narrow parent for a moment, by Bridge's own recipe of it, on every rank."""
    config, plan, stage = family.stock_config("parent", own), own.curriculum, own.stage("parent")
    use_our_layers(config.model)
    config.model.seq_length = stage.seq_length
    config.train.train_iters, config.train.global_batch_size = stage.max_steps, stage.global_batch_size
    config.optimizer.lr, config.optimizer.min_lr = plan.lr, plan.lr * plan.min_ratio
    config.scheduler.lr_warmup_iters, config.scheduler.lr_decay_iters = plan.warmup_steps, stage.max_steps
    config.comm_overlap = None
    config.ddp.overlap_grad_reduce = config.ddp.overlap_param_gather = False
    config.checkpoint.save = config.checkpoint.load = checkpoints(own.dir, "parent")
    with bridge_on_this_machine(config):
        pretrain(config, forward_step)


def rehearse_job(family: dict[str, Any], run: dict[str, Any], short: dict[str, Any], dir: str, job: str) -> None:
    """What each process of a rehearsal's job does.

    Args:
        family: see `hosts.bridge.curriculum.plain`.
        run: the recipe's, see `CurriculumRun.to_dict`.
        short: how much is trained, its fields.
        dir: of the rehearsal.
        job: parent, or one of the recipe's.
    """
    real = CurriculumRun.from_dict(run)
    recipe, how = family_of(family, real), Short(**{**short, "micro_batches": tuple(short["micro_batches"])})
    own = [*rehearsed(recipe, real, how, dir, parent_of(dir)).values()][-1]
    if job == "parent":
        train_parent(recipe, parent_run(own, how))
        return
    built = watched_jobs(recipe, own)["stage1" if job == CUT_SHORT else job]
    if job == CUT_SHORT:
        built.callbacks[-1].stop_after = own.save_every + 1
    train_to_the_end(built)
