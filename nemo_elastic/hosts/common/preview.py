# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A dry run of an experiment: all files that it would send, in a folder, and a table of its jobs. Nothing starts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_elastic.io.values import three_digits
from nemo_elastic.io.write import atomic_write

from .curriculum_run import Job

__all__ = ["show", "write"]

COLUMNS = ("job", "jobs", "nodes", "GPUs", "layout", "limit", "hours")


def write(experiment: run.Experiment, folder: Path, final: Path) -> None:
    """Let NeMo-Run write what it would send, unsent, and add the commands of jobs that run on this machine.

    Args:
        experiment: with its jobs, made with a base folder of its own inside `folder`.
        folder: an empty folder.
        final: the name that it will have.
    """
    experiment.dryrun(log=False, delete_exp_dir=False)
    place = Path(experiment._exp_dir)
    for job in experiment.jobs:
        if isinstance(job.executor, run.LocalExecutor):
            atomic_write(place / f"{job.id}.sh", _command(job).replace(str(place), str(final)))
    for path in list(place.iterdir()):
        path.rename(folder / path.name)
    for empty in (place, *place.parents):
        if empty == folder:
            break
        empty.rmdir()


def _command(job: Any) -> str:
    """Shell script with the environment and commands of a job, as NeMo-Run would start them on this machine."""
    request = job._dryrun_info.request
    lines = ["#!/bin/sh"]
    for replicas in request.role_params.values():
        for one in replicas:
            exports = [f"export {name}={shlex.quote(value)}" for name, value in job.executor.env_vars.items()]
            lines += [*exports, shlex.join(map(str, one.args))]
    return "\n".join(lines) + "\n"


def show(sent: Sequence[Any], titles: Sequence[str], jobs: Mapping[str, Job], said: str) -> None:
    """Print a table of the jobs in their order, and the time of all by plan.

    Args:
        sent: NeMo-Run's jobs, in order.
        titles: for each the name in `jobs`: a stage is several jobs in a row where the time of a job is limited.
        jobs: by name.
        said: about them, after their number.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(sent)} jobs; {said}", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="left" if column in ("job", "layout") else "right")
    for title, job in jobs.items():
        turns = [one for one, name in zip(sent, titles, strict=True) if name == title]
        limit, time = getattr(turns[0].executor, "time", "-"), job.time
        planned = "-" if time is None else f"{three_digits(time.hours)}-{three_digits(time.hours_high)}"
        gpus = str(job.nodes * job.devices)
        table.add_row(title, str(len(turns)), str(job.nodes), gpus, job.layout, limit, planned)
    console = Console(markup=False, soft_wrap=True, width=140)
    console.print(table)
    times = [job.time for job in jobs.values() if job.time is not None]
    if times:
        console.print(f"all stages by plan: {sum(times[1:], times[0])}")
