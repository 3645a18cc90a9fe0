# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs as one experiment of NeMo-Run's, each started when the one before it has succeeded."""

from __future__ import annotations

import gc
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import nemo_run as run
from torchx.specs.api import AppState

from nemo_elastic.errors import ElasticError, bad, exit_in_one_line
from nemo_elastic.io.outputs import Output, atomic_dir
from nemo_elastic.io.values import integer
from nemo_elastic.io.write import absolute

from .curriculum_run import Job
from .local_jobs import jobs_end_with_this
from .preview import show, write

__all__ = ["STOP_BEFORE", "Executors", "job", "local_executor", "run_jobs"]

#: (nodes, GPUs per node) -> where a job runs; 0 GPUs: one process that needs none
Executors = Callable[[int, int], run.Executor]
#: seconds before the limit at which a job is asked to stop: a step at 49152 tokens takes one minute, then 172 GB of
#: weights and optimizer state of a 12B are written
STOP_BEFORE = 900


@contextmanager
def _root_log() -> Iterator[None]:
    """NeMo-Run's experiment sends the root logger to stdout, and takes a handler away when Python collects it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        gc.collect()
        root.handlers[:] = handlers
        root.setLevel(level)


@_root_log()
def run_jobs(
    name: str,
    jobs: Mapping[str, Job],
    executors: Executors,
    *,
    repeat: int | None = None,
    dryrun: str | None = None,
    tail_logs: bool = True,
) -> None:
    """Run jobs as one experiment, each after the one before it has succeeded.

    On Slurm all are submitted at once and depend on each other; elsewhere the call waits for each. Ctrl-C ends those
    that run on this machine, with all their ranks, and starts no further job.

    Args:
        name: title of the experiment.
        jobs: by name, in order.
        executors: where a job of so many nodes and GPUs per node runs; one that does not train gets 0 GPUs.
        repeat: how often in a row a job that trains is submitted; by default as often as its longest planned hours
            need under the limit of a job, on Slurm. Each is stopped in time with a checkpoint, from which the next
            one resumes. One too many ends at once. The following job starts only if the last one has reached the end
            of its training.
        dryrun: start nothing; write to this folder what would be sent, and print a table of the jobs. One that an
            earlier dry run wrote is replaced.
        tail_logs: print the logs of jobs on this machine.

    Raises:
        ElasticError: a job failed; the folder of the dry run may not be written; `repeat` jobs are too few by plan.
    """
    if repeat is not None:
        integer("--jobs", repeat, 1, "at least 1")
    # it tells of each job that its files are packed already
    logging.getLogger("nemo_run.core.execution.slurm").setLevel(logging.WARNING)
    if dryrun is not None:
        with (
            atomic_dir(dryrun, force=True, kind=Output("a dry run")) as folder,
            run.Experiment(name, base_dir=str(folder), clean_mode=True) as experiment,
        ):
            titles = _add(experiment, jobs, executors, repeat)
            write(experiment, folder, absolute(dryrun))
        show(experiment.jobs, titles, jobs, f"nothing is submitted. Files: {absolute(dryrun)}")
        return
    with jobs_end_with_this(), run.Experiment(name) as experiment:
        titles = _add(experiment, jobs, executors, repeat, tail_logs)
        if any(one.time for one in jobs.values()):
            show(experiment.jobs, titles, jobs, "each starts after the one before it")
        experiment.run(
            sequential=True, detach=not any(isinstance(job.executor, run.LocalExecutor) for job in experiment.jobs)
        )
    failed = next((job for job in experiment.jobs if job.state in (AppState.FAILED, AppState.CANCELLED)), None)
    if failed is not None:
        raise ElasticError(f"{name}: {failed.id} failed; its log is in {failed.executor.job_dir}")


def _add(
    experiment: run.Experiment,
    jobs: Mapping[str, Job],
    executors: Executors,
    repeat: int | None,
    tail_logs: bool = True,
) -> list[str]:
    """Put jobs into an experiment, those that train in turns. Gives each one's name in `jobs`.

    A turn that is stopped ends with exit code 0, so that the next is started; but the last with `STOPPED`, as a job
    does by itself, so that what follows does not take a training for done that is not.
    """
    titles = []
    for title, one in jobs.items():
        executor = executors(one.nodes, one.devices)
        tail, last = tail_logs and isinstance(executor, run.LocalExecutor), repeat or 1
        if not one.stop:
            last = 1
        elif isinstance(executor, run.SlurmExecutor):
            left = _seconds(executor.time) - STOP_BEFORE
            if left > 0:
                executor.signal = f"{SIGTERM.value}@{STOP_BEFORE}"
            last = _turns(title, one, executor.time, left, repeat)
        for number in range(1, last + 1):
            task = one.task.clone()
            if one.stop and number < last:
                one.stop(task, 0)
            experiment.add(run.Partial(job, task=task), executor=executor, name=title, tail_logs=tail)
            titles.append(title)
    return titles


def _seconds(limit: str) -> int:
    """A limit of Slurm's."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", limit)
    if match is None:
        raise bad("time", limit, "[DAYS-]HH:MM:SS")
    days, hours, minutes, seconds = map(int, match.groups("0"))
    return 86400 * days + 3600 * hours + 60 * minutes + seconds


def _turns(title: str, one: Job, limit: str, left: int, repeat: int | None) -> int:
    """How often in a row a job is submitted that has `left` seconds before it is stopped."""
    if one.time is None:
        return repeat or 1
    if left <= 0:
        raise bad("time", limit, f"above {STOP_BEFORE // 60} minutes, before which a job is stopped with a checkpoint")
    least, most = (math.ceil(3600 * hours / left) for hours in (one.time.hours, one.time.hours_high))
    if repeat is not None and repeat < least:
        allowed = (
            f"at least {least} jobs of {limit}: {title} takes {one.time} by plan; without --jobs there are {most}"
        )
        raise bad("--jobs", repeat, allowed)
    if repeat is not None and repeat < most:
        print(f"  {title}: up to {most} jobs of {limit} by plan; --jobs is {repeat}", flush=True)
    return repeat or most


def job(task: Callable[[], Any]) -> Any:
    """What a job's process does: a mistake of the user's ends in one line and exit code 2, Ctrl-C in 130."""
    with exit_in_one_line():
        return task()


def allocator() -> dict[str, str]:
    """How CUDA memory is allocated in jobs: members of other widths alternate, and would leave gaps in segments."""
    name = "PYTORCH_CUDA_ALLOC_CONF"
    return {name: os.environ.get(name, "expandable_segments:True")}


def local_executor(nodes: int, devices: int) -> run.LocalExecutor:
    """torchrun on this machine; one process for a job without GPUs.

    Raises:
        ElasticError: more than one node.
    """
    if nodes != 1:
        raise bad("num_nodes", nodes, "1 on this machine; run.py --slurm has more")
    # torchrun lies beside python, also where the environment is not active
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | allocator()
    return run.LocalExecutor(
        ntasks_per_node=max(1, devices),
        launcher="torchrun",
        env_vars={"PATH": path, "TOKENIZERS_PARALLELISM": "0"} | threads,
    )
