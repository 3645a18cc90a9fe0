# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal from end to end: build both sets of jobs, compare them, run the small ones, look at what they left."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.data.build import build_data
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.hosts.nemo.curriculum.jobs import PAPER, Curriculum, Executors, Stage, run_family
from nemo_elastic.hosts.nemo.curriculum.large import FamilyRecipe
from nemo_elastic.io.atomic import atomic_write

from .changes import Change, changes
from .checks import Place, checks
from .family import Short, SmallFamily
from .jobs import CUT_SHORT, data_dir, rehearsal_jobs
from .report import REPORT, Job, RehearsalReport

#: stands for a parent, data and a folder that only the real run has
THERE = ("/checkpoints/parent", ["/data/text"], "/runs/family")


class Rehearsal:
    """A recipe's rehearsal in one folder.

    Args:
        family: the recipe.
        dir: folder for everything, an absolute path that all ranks see.
        short: how much is trained.
        num_nodes, num_gpus_per_node, gpu: machines of the real run: its layouts are rehearsed.
        curriculum: of the real run.

    Attributes:
        jobs: what runs, by name.
        changed: what differs from the recipe's own jobs.

    Raises:
        ElasticError: as the recipe itself; the rehearsal changes something that it does not declare.
    """

    def __init__(
        self,
        family: FamilyRecipe,
        dir: str,
        short: Short | None = None,
        *,
        num_nodes: int = 16,
        num_gpus_per_node: int = 8,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
    ) -> None:
        short = short or Short()
        self.family, self.dir = family, dir
        self.small = SmallFamily.of(family, short, curriculum, num_nodes, num_gpus_per_node, gpu)
        self.curriculum = self.small.curriculum(curriculum)
        machines: dict[str, Any] = {
            "num_nodes": num_nodes, "num_gpus_per_node": num_gpus_per_node, "gpu": gpu, "curriculum": curriculum
        }  # fmt: skip
        with quiet():
            own = family.jobs(*THERE, **machines)
            self.jobs = rehearsal_jobs(self.small, dir, self.curriculum)
        self.changed = changes(own, self.jobs)

    def told_jobs(self) -> list[Job]:
        """The jobs in words."""
        ranks, first, second = self.small.short.ranks, *(str(layout) for layout in self.small.layouts)
        layouts = {"parent": f"DP{ranks}", "rank": f"DP{ranks}", CUT_SHORT: first, "stage1": first, "stage2": second}
        steps = {name: getattr(getattr(job, "trainer", None), "max_steps", 0) for name, job in self.jobs.items()}
        return [Job(name, layouts.get(name, "1 process"), 0 if name == "rank" else steps[name]) for name in self.jobs]

    def plan(self) -> dict[str, Any]:
        """What `conclude` needs to know, as JSON."""
        return {
            "recipe": self.small.name,
            "block": self.small.config.to_dict(),
            "curriculum": asdict(self.curriculum),
            "changed": [change.to_json() for change in self.changed],
            "jobs": [asdict(job) for job in self.told_jobs()],
        }

    def run(self, run_job: Callable[[str, run.Partial], None], tell: Callable[[str], None]) -> RehearsalReport:
        """Run all jobs here, one after another, and look at what they left.

        Args:
            run_job: runs a job to its end, by its name; an `ElasticError` where it fails.
            tell: gets a line per job.
        """
        seconds: dict[str, float] = {}
        failed = None
        make_data(data_dir(self.dir), self.small.parent.vocab)
        for name, job in self.jobs.items():
            began = time.monotonic()
            tell(f"{name} …")
            try:
                run_job(name, job)
            except ElasticError as error:
                failed = error.message
            seconds[name] = time.monotonic() - began
            tell(f"  {seconds[name]:.0f} s")
            if failed:
                break
        return conclude(self.dir, self.plan(), seconds, failed)

    def submit(self, executors: Executors, name: str, dryrun: str | None = None) -> None:
        """Submit all jobs to a cluster, and behind them one that looks at what they left and writes the report.

        Args:
            executors, name, dryrun: see `curriculum.run_family`.
        """
        data = run.Partial(make_data, out=data_dir(self.dir), vocab=self.small.parent.vocab)
        check = run.Partial(look, dir=self.dir, plan=self.plan())
        run_family(name, {"data": data, **self.jobs, "check": check}, executors, dryrun=dryrun)


def run_by(executors: Executors, title: str) -> Callable[[str, run.Partial], None]:
    """Run each job as an experiment of its own; what it says goes to its log."""

    def run_job(name: str, job: run.Partial) -> None:
        with quiet():
            run_family(title, {name: job}, executors, tail_logs=False)

    return run_job


def make_data(out: str, vocab: int) -> None:
    """Text of Python's standard library, and a tokenizer, unless they are there."""
    if not Path(out).exists():
        build_data(out, vocab=vocab)


def look(dir: str, plan: Mapping[str, Any]) -> None:
    """The last job on a cluster: write the report.

    Raises:
        ElasticError: a check has failed.
    """
    report = conclude(dir, plan, {}, None)
    for name, check in report.checks.items():
        print(f"{name}: {'ok' if check.ok else 'FAILED' if check.ok is False else '-'}: {check.told}", flush=True)
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
    stages = {name: Stage(**plan["curriculum"][name]) for name in ("stage1", "stage2")}
    curriculum = Curriculum(**{**plan["curriculum"], **stages})
    found = checks(Place(Path(dir), ElasticConfig.from_dict(plan["block"]), curriculum))
    jobs = [replace(Job(**job), seconds=seconds.get(job["name"])) for job in plan["jobs"]]
    report = RehearsalReport(plan["recipe"], [Change(**change) for change in plan["changed"]], jobs, found, failed)
    atomic_write(Path(dir, REPORT), json.dumps(report.to_json(), indent=1) + "\n")
    return report


def load_recipe(path: Path) -> FamilyRecipe:
    """The family of a recipe's file.

    Raises:
        ElasticError: it has no `FAMILY`.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    family = getattr(module, "FAMILY", None)
    if not isinstance(family, FamilyRecipe):
        raise bad("RECIPE", str(path), "a file with FAMILY, the FamilyRecipe whose jobs are rehearsed")
    return family


@contextlib.contextmanager
def quiet() -> Any:
    """What builders and NeMo-Run print goes to stderr: stdout is for the report."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
