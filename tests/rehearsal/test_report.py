# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal tells: as JSON, in tables, and whether all is well."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nemo_elastic.rehearsal.report import (
    Change,
    Finding,
    JobReport,
    RehearsalReport,
    print_changes,
    print_end,
    print_report,
)

CHANGES = (
    Change("stage1: data.seq_length", 8192, 64, "lengths"),
    Change("stage1: trainer.max_steps", 12000, 6, "steps"),
    Change("stage2: data.seq_length", 8192, 64, "lengths"),
    Change("rank: out", None, "/tmp/rank", "paths"),
)
REPORT = RehearsalReport(
    recipe="nemotron_elastic_9b",
    changed=CHANGES,
    jobs=(JobReport("parent", "TP2 PP2 DP1", 40, 12.4), JobReport("slice", "one process", 0)),
    checks={"resumes": Finding(True, "12 tensors are the same", {"tensors": 12}), "cuts": Finding(None, "no vLLM")},
)


@pytest.mark.parametrize(
    ("report", "ok"),
    [
        (REPORT, True),  # a check that cannot be made here is no failure
        (replace(REPORT, failed="stage1: exit code 1"), False),
        (replace(REPORT, checks={**REPORT.checks, "router": Finding(False, "it has not moved")}), False),
    ],
)
def test_a_job_or_a_check_that_failed_fails_the_rehearsal(report: RehearsalReport, ok: bool) -> None:
    assert report.ok is report.to_json()["ok"] is ok


def test_json_has_everything_with_the_figures_of_checks() -> None:
    data = json.loads(json.dumps(REPORT.to_json()))
    assert data["jobs"][1] == {"name": "slice", "layout": "one process", "steps": 0, "seconds": None}
    assert data["checks"]["resumes"] == {"ok": True, "told": "12 tensors are the same", "tensors": 12}
    assert data["changed"][3] == {"name": "rank: out", "before": None, "after": "/tmp/rank", "why": "paths"}
    assert (data["recipe"], data["failed"]) == ("nemotron_elastic_9b", None)


def test_a_setting_that_several_jobs_have_is_one_line_under_its_reason() -> None:
    console = Console(file=io.StringIO(), width=200)
    print_changes(REPORT.changed, console)
    print_report(replace(REPORT, failed="stage1: exit code 1"), console)
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines]
    assert [row for row in rows if row[0] in ("lengths", "steps", "paths")] == [
        ["lengths", "data.seq_length", "8,192", "64", "stage1, stage2"],
        ["steps", "trainer.max_steps", "12,000", "6", "stage1"],
        ["paths", "out", "-", "/tmp/rank", "rank"],
    ]
    assert lines[-1] == "failed: stage1: exit code 1"


def test_the_end_of_a_job_that_failed_is_its_own_word(tmp_path: Path) -> None:
    """Not what torchrun and NeMo-Run print around a job's own lines."""
    log, console = tmp_path / "a.log", Console(file=io.StringIO(), width=40, markup=False, highlight=False)
    own = ["one/0 [default0]:Traceback", "one/0 [default0]:ZeroDivisionError: no luck"]
    failed = "one/0 E1129 23:35:16 torch: failed (exitcode: 1)"
    log.write_text("\n".join(["Launching job one", *own, failed, "nemo experiment"]))
    print_end(log, console, 2)
    assert console.file.getvalue().splitlines()[1:] == [own[1], failed]  # pyright: ignore
