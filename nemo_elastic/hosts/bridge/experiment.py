# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum's jobs as NeMo-Run starts them: each process builds its container anew, from plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import nemo_run as run

from nemo_elastic.errors import STOPPED
from nemo_elastic.hosts.common.experiment import STOP_BEFORE, Job
from nemo_elastic.plan import NODE
from nemo_elastic.plan.curriculum import PAPER, Curriculum
from nemo_elastic.plan.layouts import layout_name

from .apply import ElasticRun
from .cli import find_recipe
from .curriculum import NODES, Blend, BridgeFamily, slice_job, train_to_the_end

__all__ = ["described", "described_job", "import_path", "plain", "train"]


def described(
    family: BridgeFamily,
    parent: str,
    data: Blend,
    dir: str,
    long_data: Blend | None = None,
    num_nodes: int = NODES,
    num_gpus_per_node: int = NODE,
    gpu: str = "h100",
    curriculum: Curriculum = PAPER,
    tokenizer: str | None = None,
) -> dict[str, Job]:
    """All four jobs of a family, as an experiment takes them. Each is built here once, so that mistakes are told now.

    Args: as in `BridgeFamily.jobs`.
    """
    machines = {"num_nodes": num_nodes, "num_gpus_per_node": num_gpus_per_node, "gpu": gpu}
    runs = family.jobs(parent, data, dir, long_data, curriculum=curriculum, tokenizer=tokenizer, **machines)
    same = {
        **plain(family), "parent": parent, "dir": dir, "gpu": gpu, "node": num_gpus_per_node,
        "curriculum": asdict(curriculum), "tokenizer": tokenizer,
    }  # fmt: skip
    jobs = {}
    for name, built in runs.items():
        nodes = 1 if name == "rank" else num_nodes
        own = (long_data or data) if name == "stage2" else data
        given = dict(own) if isinstance(own, Mapping) else list(own)
        task = run.Partial(train, job=name, data=given, gpus=nodes * num_gpus_per_node, **same)
        jobs[name] = described_job(task, built, nodes, num_gpus_per_node, trains=name != "rank")
    return jobs | {"slice": Job(run.Partial(slice_job, dir=dir))}


def described_job(task: run.Partial, built: ElasticRun, nodes: int, devices: int, trains: bool) -> Job:
    """A job with its ranks in words.

    Args:
        task: `train`, or what stops in time as it does, by an argument `stopped`.
        built: what it will run.
        nodes, devices: its nodes, and GPUs of each.
        trains: whether it may be several in a row.
    """
    model = built.config.model
    tensor, pipeline = model.tensor_model_parallel_size, model.pipeline_model_parallel_size
    recompute = model.recompute_granularity == "full"
    data = nodes * devices // (tensor * pipeline)
    expert = model.expert_model_parallel_size if model.num_moe_experts else None
    layout = layout_name(tensor, pipeline, data, model.sequence_parallel, recompute, expert)
    return Job(task, nodes, devices, layout, partial(in_turns, task) if trains else None)


def in_turns(task: run.Partial, executor: run.Executor, repeat: int) -> list[run.Partial]:
    """A training as so many jobs in a row, each stopped in time for the next, see `train_to_the_end`."""
    turns = [task.clone() for _ in range(repeat)]
    if repeat > 1:
        if isinstance(executor, run.SlurmExecutor):
            executor.signal = f"15@{STOP_BEFORE}"
        for i, turn in enumerate(turns):
            turn.stopped = 0 if i + 1 < repeat else STOPPED
    return turns


def train(
    stock: str,
    shape: str,
    name: str,
    block: dict[str, Any],
    job: str,
    parent: str,
    data: Any,
    dir: str,
    gpus: int,
    gpu: str,
    node: int,
    curriculum: dict[str, Any],
    tokenizer: str | None = None,
    stopped: int = STOPPED,
) -> None:
    """What each process of a job does.

    Args:
        stock, shape, name, block: see `plain`.
        stopped: exit code where the job is stopped before the end of its training.
        job, parent, data, dir, gpus, gpu, node, curriculum, tokenizer: as in `BridgeFamily.job`.
    """
    family = BridgeFamily(name, find_recipe(stock), shape, block)
    plan = Curriculum.from_dict(curriculum)
    train_to_the_end(family.job(job, parent, data, dir, gpus, gpu, plan, tokenizer, node), stopped)


def plain(family: BridgeFamily) -> dict[str, Any]:
    """A family as plain values, for another process."""
    return {
        "stock": import_path(family.stock),
        "shape": family.shape,
        "name": family.name,
        "block": family.config.to_dict(),
    }


def import_path(function: Callable[..., Any]) -> str:
    """Of a function of a module's."""
    return f"{function.__module__}.{function.__qualname__}"
