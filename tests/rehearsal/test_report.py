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


def printed(report: RehearsalReport) -> list[list[str]]:
    """Words of each line, without the frames of tables."""
    console = Console(file=io.StringIO(), width=200)
    print_changes(report.changed, console)
    print_report(report, console)
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return [[cell.strip() for cell in line.replace("│", "┃").strip("┃ ").split("┃")] for line in lines]


def test_a_check_that_cannot_be_made_here_is_no_failure() -> None:
    assert REPORT.ok


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, failed="stage1: exit code 1"),
        replace(REPORT, checks={**REPORT.checks, "router": Finding(False, "it has not moved")}),
    ],
)
def test_a_job_or_a_check_that_failed_fails_the_rehearsal(report: RehearsalReport) -> None:
    assert not report.ok and report.to_json()["ok"] is False


def test_json_has_everything_with_the_figures_of_checks() -> None:
    data = json.loads(json.dumps(REPORT.to_json()))
    assert data["jobs"][1] == {"name": "slice", "layout": "one process", "steps": 0, "seconds": None}
    assert data["checks"]["resumes"] == {"ok": True, "told": "12 tensors are the same", "tensors": 12}
    assert data["changed"][3] == {"name": "rank: out", "before": None, "after": "/tmp/rank", "why": "paths"}
    assert (data["recipe"], data["failed"], data["ok"]) == ("nemotron_elastic_9b", None, True)


def test_a_setting_that_several_jobs_have_is_one_line_under_its_reason() -> None:
    rows = [line for line in printed(REPORT) if line[0] in ("lengths", "steps", "paths")]
    assert rows == [
        ["lengths", "data.seq_length", "8,192", "64", "stage1, stage2"],
        ["steps", "trainer.max_steps", "12,000", "6", "stage1"],
        ["paths", "out", "-", "/tmp/rank", "rank"],
    ]


def test_what_failed_is_reported_in_words() -> None:
    checks = {"router": Finding(False, "it has not moved")}
    rows = printed(replace(REPORT, checks=checks, failed="stage1: exit code 1"))
    assert ["router", "FAILED", "it has not moved"] in rows and ["failed: stage1: exit code 1"] in rows
    assert not any(line[0].startswith("failed:") for line in printed(REPORT))


#: what torchrun and NeMo-Run print around a job's own lines
STARTS = ["Launching job one", "one/0 I1129 torch/distributed/run.py: Using nproc_per_node=1."]
ENDS = ["one/0 E1129 23:35:16 torch: failed (exitcode: 1)", "one/0 <NO_OTHER_FAILURES>", "nemo experiment"]


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        (["Traceback", "ZeroDivisionError: no luck"], ["one/0 [default0]:ZeroDivisionError: no luck", ENDS[0]]),
        ([f"step {i}" for i in range(9)], ["one/0 [default0]:step 8", ENDS[0]]),
    ],
)
def test_the_end_of_a_job_that_failed_is_its_own_word(tmp_path: Path, own: list[str], shown: list[str]) -> None:
    log, console = tmp_path / "a.log", Console(file=io.StringIO(), width=40, markup=False, highlight=False)
    log.write_text("\n".join([*STARTS, *(f"one/0 [default0]:{line}" for line in own), *ENDS]))
    print_end(log, console, 2)
    assert console.file.getvalue().splitlines() == [f"the last lines of {log}:", *shown]  # pyright: ignore
