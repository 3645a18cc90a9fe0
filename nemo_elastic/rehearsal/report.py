# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal's report: changed settings, jobs and checks, as JSON and as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: files in a rehearsal's folder: the report, and what the jobs have printed
REPORT, LOG = "rehearsal.json", "rehearsal.log"
#: what torchrun puts before a line of a rank's, and before one on its end
RANK = re.compile(r"\[default\d+\]:| E\d{4} ")


#: settings of jobs, by the job's name and theirs
Settings = Mapping[str, Mapping[str, Any]]
#: why a callback is there that watches
WATCHED = "the rehearsal reads its records"


@dataclass(frozen=True)
class Change:
    """One setting of a job that has another value in its rehearsal.

    Attributes:
        name: JOB: SETTING.
        before, after: as the recipe has it, and its rehearsal; None where absent.
        why: it was replaced.
    """

    name: str
    before: Any
    after: Any
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "before": self.before, "after": self.after, "why": self.why}


def changes(recipe: Settings, replaced: Mapping[str, Settings]) -> list[Change]:
    """Every setting of the recipe's jobs that the jobs of its rehearsal have otherwise.

    Args:
        recipe: the recipe's own.
        replaced: why -> those after this replacement, in order; the last are the rehearsal's.
    """
    out: list[Change] = []
    for job, first in recipe.items():
        whys: dict[str, str] = {}
        before: Mapping[str, Any] = first
        for why, settings in replaced.items():
            after = settings[job]
            whys |= {name: why for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
            before = after
        out += [
            Change(f"{job}: {name}", first.get(name), before.get(name), whys[name])
            for name in sorted(whys)
            if first.get(name) != before.get(name)
        ]
    return out


@dataclass(frozen=True)
class Finding:
    """One thing that a rehearsal shows.

    Attributes:
        ok: whether it does; None where this machine cannot tell.
        message: in words.
        figures: what was measured.
    """

    ok: bool | None
    message: str
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "told": self.message, **self.figures}


@dataclass(frozen=True)
class JobReport:
    """One job.

    Attributes:
        name: of the job.
        layout: its ranks, in words.
        steps: optimizer steps that it is to reach; 0 where it trains nothing.
        seconds: from its start to its end; None where it has none.
    """

    name: str
    layout: str
    steps: int
    seconds: float | None = None


@dataclass(frozen=True)
class RehearsalReport:
    """Everything that is reported.

    Attributes:
        recipe: its name.
        changed: what the rehearsal has otherwise than the recipe.
        jobs: in order.
        checks: by name.
        failed: the error of a job that failed.
    """

    recipe: str
    changed: Sequence[Change]
    jobs: Sequence[JobReport]
    checks: Mapping[str, Finding]
    failed: str | None = None

    @property
    def ok(self) -> bool:
        """No job and no check has failed."""
        return self.failed is None and all(check.ok is not False for check in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "changed": [change.to_json() for change in self.changed],
            "jobs": [asdict(job) for job in self.jobs],
            "checks": {name: check.to_json() for name, check in self.checks.items()},
            "failed": self.failed,
            "ok": self.ok,
        }


def print_changes(changed: Sequence[Change], console: Console) -> None:
    """What is changed, and why: one line for a setting that several jobs have."""
    table = Table(title="settings that the rehearsal changes; all others are the recipe's", title_justify="left")
    for header in ("why", "setting", "recipe", "rehearsal", "jobs"):
        table.add_column(header, overflow="fold")
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for change in changed:
        job, setting = change.name.split(": ", 1)
        rows.setdefault((change.why, setting, _in_words(change.before), _in_words(change.after)), []).append(job)
    order = list(dict.fromkeys(change.why for change in changed))
    for row in sorted(rows, key=lambda row: order.index(row[0])):
        table.add_row(*row, ", ".join(rows[row]))
    console.print(table)


def print_report(report: RehearsalReport, console: Console) -> None:
    """Jobs and checks."""
    jobs = Table(title=f"{report.recipe}: jobs", title_justify="left")
    for header in ("job", "layout", "steps", "seconds"):
        jobs.add_column(header, justify="left" if header in ("job", "layout") else "right")
    for job in report.jobs:
        seconds = "-" if job.seconds is None else f"{job.seconds:.0f}"
        jobs.add_row(job.name, job.layout, str(job.steps or "-"), seconds)
    console.print(jobs)
    checks = Table(title=f"{report.recipe}: checks", title_justify="left")
    for header in ("check", "", "figures"):
        checks.add_column(header, overflow="fold")
    for name, check in report.checks.items():
        checks.add_row(name, {True: "ok", False: "FAILED", None: "-"}[check.ok], check.message)
    console.print(checks)
    if report.failed:
        console.print(f"failed: {report.failed}")


def print_end(log: Path, console: Console, most: int = 20) -> None:
    """The last lines of a job that failed: of its ranks where they have said anything, not of what started them."""
    lines = log.read_text("utf-8", "replace").splitlines()
    ranks = [line for line in lines if RANK.search(line)]
    console.print(f"the last lines of {log}:", *(ranks or lines)[-most:], sep="\n", soft_wrap=True)


def _in_words(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if type(value) is int else str(value)
