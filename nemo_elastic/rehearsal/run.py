# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal from end to end: build both sets of jobs, compare them, run the small ones, look at what they left."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.data.packing import NPY, PARQUET
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job, described
from nemo_elastic.hosts.common.experiment import Executors, run_jobs
from nemo_elastic.hosts.common.planned import PlannedFamily
from nemo_elastic.io.write import atomic_write
from nemo_elastic.plan.stages import PAPER, Curriculum

from .findings import Place, checks
from .report import REPORT, WATCHED, Change, JobReport, RehearsalReport, Settings, changes
from .short import Short, job_names, make_data, parent_run, rehearsed, stage_of, watch_of


@dataclass(frozen=True)
class Rehearsal:
    """A recipe's rehearsal in one folder.

    Attributes:
        family: the recipe.
        dir: folder for everything, an absolute path that all ranks see.
        short: how much is trained.
        scaled: the run of its jobs, a `replace` of the recipe's.
        jobs: what runs, by name, in order.
        changed: what differs in them from the recipe's own.
    """

    family: PlannedFamily
    dir: str
    short: Short
    scaled: CurriculumRun
    jobs: Mapping[str, Job]
    changed: Sequence[Change]

    @property
    def parent(self) -> Parent:
        """The narrow parent."""
        assert self.scaled.shape is not None
        return self.scaled.shape

    def data(self) -> dict[str, Any]:
        """Arguments of `make_data`."""
        plan, packed = self.scaled.curriculum, PARQUET if self.family.host == "bridge" else NPY
        lengths = tuple({stage.seq_length: None for stage in plan.stages}) if self.scaled.chat else ()
        return {"dir": self.dir, "vocab": self.parent.vocab, "lengths": lengths, "packed": packed}

    def job_reports(self) -> list[JobReport]:
        """The jobs in words."""
        return [JobReport(name, job.layout, job.steps) for name, job in self.jobs.items()]

    def plan(self) -> dict[str, Any]:
        """What `conclude` needs to know, as JSON."""
        return {
            "recipe": self.family.name,
            "block": self.scaled.block.to_dict(),
            "curriculum": asdict(self.scaled.curriculum),
            "left": left_by(self.family, self.scaled),
            "changed": [change.to_json() for change in self.changed],
            "jobs": [asdict(job) for job in self.job_reports()],
        }

    def run(
        self, run_job: Callable[[str, Job], None], during: Callable[[str], AbstractContextManager[Any]]
    ) -> RehearsalReport:
        """Run all jobs here, one after another, and look at what they left.

        Args:
            run_job: runs a job to its end, by its name; an `ElasticError` where it fails.
            during: name of a step -> a context that shows progress while it runs.
        """
        seconds: dict[str, float] = {}
        failed = None
        with during("data"):
            make_data(**self.data())
        for number, (name, job) in enumerate(self.jobs.items(), 1):
            began = time.monotonic()
            with during(f"{name} (job {number} of {len(self.jobs)})"):
                try:
                    run_job(name, job)
                except ElasticError as error:
                    failed = error.message
            seconds[name] = time.monotonic() - began
            if failed:
                break
        with during("checks"):
            return conclude(self.dir, self.plan(), seconds, failed)

    def submit(self, executors: Executors, name: str, dryrun: str | None = None) -> None:
        """Submit all jobs to a cluster, then one that checks their results and writes the report.

        Args:
            executors, name, dryrun: see `hosts.common.experiment.run_jobs`.
        """
        data = Job(run.Partial(make_data, **self.data()))
        check = Job(run.Partial(look, dir=self.dir, plan=self.plan()))
        run_jobs(name, {"data": data, **self.jobs, "check": check}, executors, dryrun=dryrun)


#: stands for a parent, data and a folder that only the real run has
THERE = ("/checkpoints/parent", ["/data/text"], "/runs/family", ["/data/long"])


def rehearsal_of(
    family: PlannedFamily,
    dir: str,
    short: Short | None = None,
    quantize: str | None = None,
    block: str | Path | None = None,
    **machines: Any,
) -> Rehearsal:
    """The rehearsal of a recipe, on the recipe's own host.

    Args:
        family: the recipe.
        dir: folder for everything, an absolute path that all ranks see.
        short: how much is trained.
        quantize, block: a stage 3 in this precision, a block in place of the recipe's: see `PlannedFamily.run_of`.
        machines: fields of the real run, by which its layouts are planned: nodes, devices, gpu, curriculum.

    Raises:
        ElasticError: as the recipe itself.
    """
    short = short or Short()
    run = family.run_of(*THERE, curriculum=machines.pop("curriculum", PAPER), quantize=quantize, block=block)
    real = family.planned(replace(run, **machines))
    replaced = rehearsed(family, real, short, dir)
    scaled, before = [*replaced.values()][-1], settings_of(family, real)
    each = {why: settings_of(family, one) for why, one in replaced.items()}
    jobs, settings = rehearsal_jobs(family, scaled, short)
    return Rehearsal(family, dir, short, scaled, jobs, changes(before, each | {WATCHED: settings}))


def rehearsal_jobs(family: PlannedFamily, scaled: CurriculumRun, short: Short) -> tuple[dict[str, Job], Settings]:
    """All jobs of a rehearsal's run, and their settings."""
    settings: dict[str, Any] = {"slice": family.slice_arguments(scaled)}
    parent, built, jobs = parent_run(scaled, short), family.build_all(scaled), dict[str, Job]()

    def add(name: str, job: str, made: Any, its: CurriculumRun, watch: tuple[str, int | None] | None = None) -> None:
        task = family.task(made, job, its, watch)
        jobs[name] = described(family.recipe_of(made), task, family.stop_in_time, (1, short.ranks))

    add("parent", "parent", family.parent_recipe(parent), parent)
    for name in job_names(scaled):
        job, watch = stage_of(name), watch_of(name, scaled)
        made = built[job] if watch is None else family.watched(built[job], *watch)
        add(name, job, made, scaled, watch)
        settings[name] = family.settings(made)
    return jobs | {"slice": Job(family.slice_job(scaled))}, settings


def settings_of(family: PlannedFamily, run: CurriculumRun) -> Settings:
    """Job -> its settings, for all jobs of a run, and `slice` -> the settings of slicing."""
    with contextlib.redirect_stdout(io.StringIO()):  # `apply_elastic` prints its changes
        built = family.build_all(run)
    return {name: family.settings(job) for name, job in built.items()} | {"slice": family.slice_arguments(run)}


def left_by(family: PlannedFamily, of: CurriculumRun) -> dict[str, str]:
    """The checkpoints that the jobs of a run leave."""
    return {name: family.checkpoint_of(name, of) for name in of.jobs[:-1]}


def run_by(executors: Executors, title: str) -> Callable[[str, Job], None]:
    """Run each job as an experiment of its own."""

    def run_job(name: str, job: Job) -> None:
        run_jobs(title, {name: job}, executors)

    return run_job


def look(dir: str, plan: Mapping[str, Any]) -> None:
    """The last job on a cluster: write the report.

    Raises:
        ElasticError: a check has failed.
    """
    report = conclude(dir, plan, {}, None)
    for name, check in report.checks.items():
        print(f"{name}: {'ok' if check.ok else 'FAILED' if check.ok is False else '-'}: {check.message}", flush=True)
    if not report.ok:
        raise ElasticError(f"rehearsal: a check has failed; see {Path(dir, REPORT)}")


def conclude(dir: str, plan: Mapping[str, Any], seconds: Mapping[str, float], failed: str | None) -> RehearsalReport:
    """Look at what the jobs of a rehearsal left, and write its report.

    Args:
        dir: its folder.
        plan: `Rehearsal.plan`.
        seconds: of each job, where known.
        failed: what a job that failed has said.
    """
    curriculum = Curriculum.from_dict(plan["curriculum"])
    findings = checks(Place(Path(dir), ElasticConfig.from_dict(plan["block"]), curriculum, plan["left"]))
    jobs = [replace(JobReport(**job), seconds=seconds.get(job["name"])) for job in plan["jobs"]]
    report = RehearsalReport(plan["recipe"], [Change(**change) for change in plan["changed"]], jobs, findings, failed)
    atomic_write(Path(dir, REPORT), json.dumps(report.to_json(), indent=1) + "\n")
    return report
