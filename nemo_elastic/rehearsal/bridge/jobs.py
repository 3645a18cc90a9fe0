# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal, in order: a parent, and the recipe's own, of which stage 1 is started twice."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import nemo_run as run

from nemo_elastic.hosts.bridge.apply import ElasticRun
from nemo_elastic.hosts.bridge.cli import find_recipe
from nemo_elastic.hosts.bridge.curriculum import BridgeFamily, checkpoints, slice_job, train_to_the_end
from nemo_elastic.hosts.bridge.experiment import described_job, plain
from nemo_elastic.hosts.bridge.settings import run_settings
from nemo_elastic.hosts.common.experiment import Job
from nemo_elastic.plan.curriculum import Curriculum
from nemo_elastic.rehearsal.built import THERE, Built
from nemo_elastic.rehearsal.changes import changes
from nemo_elastic.rehearsal.places import data_dir, text_of, watch_dir
from nemo_elastic.rehearsal.short import CUT_SHORT, PARENT_STEPS, Machines, Short

from .declared import DECLARED
from .family import SmallBridgeFamily, train_parent
from .watch import Watch


def build(family: BridgeFamily, dir: str, short: Short, machines: Machines) -> Built:
    """A rehearsal's jobs, and what differs in them from the recipe's own."""
    small = SmallBridgeFamily.of(family, short, machines)
    own = family.jobs(
        *THERE, num_nodes=machines.nodes, num_gpus_per_node=machines.devices, gpu=machines.gpu,
        curriculum=machines.curriculum,
    )  # fmt: skip
    runs, ranks = small_jobs(small, dir), short.ranks
    given = {"family": plain(family), "short": asdict(short), "machines": asdict(machines), "dir": dir}
    jobs, steps = {"parent": Job(run.Partial(rehearse_job, job="parent", **given), 1, ranks)}, {"parent": PARENT_STEPS}
    for name, built in runs.items():
        for title in (CUT_SHORT, name) if name == "stage1" else (name,):
            task = run.Partial(rehearse_job, job=title, **given)
            jobs[title] = described_job(task, built, 1, ranks, trains=False)
            steps[title] = built.config.train.train_iters
    jobs["slice"] = Job(run.Partial(slice_job, dir=dir))
    before = {name: run_settings(one) for name, one in own.items()} | {"slice": {"dir": THERE[2]}}
    after = {name: run_settings(one) for name, one in runs.items()} | {"slice": {"dir": dir}}
    return Built(small.small, jobs, steps, changes(before, after, DECLARED))


def small_jobs(small: SmallBridgeFamily, dir: str) -> dict[str, ElasticRun]:
    """The recipe's jobs in small, each with what watches it.

    Args:
        small: what is rehearsed.
        dir: folder for everything, an absolute path, in which text and tokenizer are made before the jobs start.
    """
    runs = small.jobs(
        checkpoints(dir, "parent"),
        text_of(dir),
        dir,
        long_data=text_of(dir, "train_long"),
        num_nodes=1,
        num_gpus_per_node=small.short.ranks,
        curriculum=small.small.curriculum,
        tokenizer=f"{data_dir(dir)}/tokenizer",
    )
    for name in ("stage1", "stage2"):
        runs[name].callbacks.append(Watch(runs[name].forward_step, watch_dir(dir, name)))
    return runs


def rehearse_job(family: dict[str, Any], short: dict[str, Any], machines: dict[str, Any], dir: str, job: str) -> None:
    """What each process of a rehearsal's job does.

    Args:
        family: see `hosts.bridge.experiment.plain`.
        short, machines: of the rehearsal, their fields.
        dir: its folder.
        job: parent, or one of the recipe's.
    """
    recipe = BridgeFamily(family["name"], find_recipe(family["stock"]), family["shape"], family["block"])
    there = Machines(**{**machines, "curriculum": Curriculum.from_dict(machines["curriculum"])})
    how = Short(**{**short, "micro_batches": tuple(short["micro_batches"])})
    small = SmallBridgeFamily.of(recipe, how, there)
    if job == "parent":
        train_parent(small, dir)
        return
    name = "stage1" if job == CUT_SHORT else job
    built = small_jobs(small, dir)[name]
    if job == CUT_SHORT:
        built.callbacks[-1].stop_after = built.config.checkpoint.save_interval + 1
    train_to_the_end(built)
