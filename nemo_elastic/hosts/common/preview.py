# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A dry run of an experiment: all files that it would send, in a folder, and a table of its jobs. Nothing starts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_elastic.io.write import atomic_write

from .curriculum_run import Job

__all__ = ["show", "write"]

COLUMNS = ("job", "nodes", "GPUs", "layout", "limit", "after")


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


def show(sent: Sequence[Any], titles: Sequence[str], jobs: Mapping[str, Job], folder: Path) -> None:
    """Print a table of all jobs, one after the other.

    Args:
        sent: NeMo-Run's, in order.
        titles: what each is a turn of: several where the time of a job is limited.
        jobs: by title.
        folder: where their files are.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(sent)} jobs; nothing is submitted. Files: {folder}", title_justify="left", box=SIMPLE,
                  show_edge=False, padding=(0, 1))  # fmt: skip
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="right" if column in ("nodes", "GPUs", "limit") else "left")
    for i, (one, title) in enumerate(zip(sent, titles, strict=True)):
        job, limit, after = jobs[title], getattr(one.executor, "time", "-"), sent[i - 1].id if i else "-"
        table.add_row(one.id, str(job.nodes), str(job.nodes * job.devices), job.layout, limit, after)
    Console(markup=False, soft_wrap=True, width=140).print(table)
