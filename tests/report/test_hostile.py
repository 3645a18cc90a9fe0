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
from tests.report.fabricate import make_run
from tests.report.hostile_worker import CASES, HUGE, NAMES, PAGES, valued
from tests.workers import part, parts

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
#: pages that `make test` draws: of names, values, numbers of things, and depths
FEW = (0, 1, 5, 7)


@pytest.fixture(scope="module")
def every_field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("every") / "run", router=True)


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, every_field: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.report.hostile_worker", tmp_path_factory.mktemp("hostile"), every_field]
    command += parts(request)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert done.stderr == "", "a word of matplotlib's"
    return {case: line for line in map(json.loads, done.stdout.splitlines()) for case in line["cases"]}


def each(*cases: tuple[str, ...]) -> list[Any]:
    """Rows of a table of tests, whose first cells are cases; long where `make test` does not draw their page."""
    pages = {case: number for number, page in enumerate(PAGES) for case in page}
    return [pytest.param(*row, marks=part(str(pages[row[0]]), long=pages[row[0]] not in FEW)) for row in cases]


@pytest.mark.parametrize("case", each(*((case,) for case in CASES)))
def test_it_is_a_page_that_runs_nothing(reports: dict[str, dict[str, Any]], case: str) -> None:
    page = reports[case]
    assert "refused" not in page, page
    assert 4 <= page["pictures"] <= 6 <= page["pictures"] + len(page["notes"])
    assert page["printable"] and not page["script"]
    assert page["length"] < 500_000 and page["drawn"] < 1_000_000


@pytest.mark.parametrize("case", each(*((f"name: {what}",) for what in NAMES if what != "length")))
def test_a_strange_name_is_a_name(reports: dict[str, dict[str, Any]], case: str) -> None:
    assert reports[case]["pictures"] == 6 and reports[case]["notes"] == []


@pytest.mark.parametrize("what", ["largest", "smallest", "integer", "text", "list", "yes", "nan"])
def test_results_that_are_no_measurements_are_reported(every_field: Path, tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(every_field, run)
    valued(run, HUGE[what])
    assert any("metrics.json" in note for note in load_run(run).notes)


@pytest.mark.parametrize(
    ("case", "note"),
    each(
        ("many results", "metrics.json: members: 100000 is not allowed; at most 100 can be shown"),
        ("many shapes", "shapes.json: members: 100000 is not allowed; at most 100 can be shown"),
        ("many candidates", "shapes.json: candidates of 0.8m: "),
        ("candidates of another type", "shapes.json: report: not "),
        ("depth of a pattern", "members[0].pattern: "),
    ),
)
def test_what_cannot_be_shown_is_reported(reports: dict[str, dict[str, Any]], case: str, note: str) -> None:
    assert any(note in line for line in reports[case]["notes"]), reports[case]["notes"]
