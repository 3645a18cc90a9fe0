# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run whose files are made to harm is a page, or one line: `hostile_worker.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.report import load_run
from tests.report.hostile_worker import CASES, HUGE, NAMES, valued

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.report.hostile_worker", tmp_path_factory.mktemp("hostile"), demo_run]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert done.stderr == "", "a word of matplotlib's"
    return {case: line for line in map(json.loads, done.stdout.splitlines()) for case in line["cases"]}


@pytest.mark.parametrize("case", list(CASES))
def test_it_is_a_page_that_runs_nothing(reports: dict[str, dict[str, Any]], case: str) -> None:
    page = reports[case]
    assert "refused" not in page, page
    assert page["pictures"] == 5 or (page["pictures"] == 4 and page["notes"])
    assert page["printable"] and not page["script"]
    assert page["length"] < 500_000 and page["drawn"] < 1_000_000


@pytest.mark.parametrize("what", [w for w in NAMES if w != "length"])
def test_a_strange_name_is_a_name(reports: dict[str, dict[str, Any]], what: str) -> None:
    assert reports[f"name: {what}"]["pictures"] == 5 and reports[f"name: {what}"]["notes"] == []


@pytest.mark.parametrize("what", ["largest", "smallest", "integer", "text", "list", "yes", "nan"])
def test_results_that_are_no_measurements_are_reported(demo_run: Path, tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(demo_run, run)
    valued(run, HUGE[what])
    assert any("metrics.json" in note for note in load_run(run).notes)


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("many results", "metrics.json: members: 100000 is not allowed; at most 100 can be shown"),
        ("many shapes", "shapes.json: members: 100000 is not allowed; at most 100 can be shown"),
        ("depth of a pattern", "members[0].pattern: "),
    ],
)
def test_what_cannot_be_shown_is_reported(reports: dict[str, dict[str, Any]], case: str, note: str) -> None:
    assert any(note in line for line in reports[case]["notes"]), reports[case]["notes"]
