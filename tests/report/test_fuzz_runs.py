# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files of a run, damaged: a report, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.report import build_report, drawing, load_run
from nemo_elastic.report.html_page import render
from tests.hostile import damaged, damaged_lines, examples, put, read_or_refused
from tests.report.fabricate import make_run

RESULTS = {
    "version": 1, "members": [{"name": "full", "loss": 1.5, "answers": {"correct": 1, "total": 2}, "pattern": "M-"}],
    "seconds": {"data": 1.0}, "bigram_loss": 3.0, "parent_loss": {"start": 3.0, "end": 2.0}, "targets": {"full": 5},
}  # fmt: skip
STEP = {"kind": "step", "step": 1, "tokens": 10, "loss": 1.0, "lr": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@examples("results of a run")
@given(damaged(RESULTS), damaged(STEP))
def test_runs(folder: Path, results: Any, step: Any) -> None:
    run = folder / "run"
    (run / "stage1").mkdir(parents=True, exist_ok=True)
    put(run / "metrics.json", results)
    put(run / "stage1" / "metrics.jsonl", step)
    read_or_refused(lambda: load_run(run))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with few lines of each stage."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run", router=True)
    for stage in ("parent", "stage1", "stage2"):
        path = run / stage / "metrics.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for i, line in enumerate(lines) if i % 13 == 0 or "compared" in line))
    return run


@examples("metrics of a run")
@given(st.data())
def test_metrics(whole_run: Path, folder: Path, data: st.DataObject) -> None:
    """Read and shown on a page; the pictures are those of the test below."""
    run = folder / "metrics"
    names = ["stage1/metrics.jsonl", "stage2/metrics.jsonl"]
    hit = data.draw(st.sampled_from(names))
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        text = (whole_run / name).read_text()
        (run / name).write_bytes(data.draw(damaged_lines(text)) if name == hit else text.encode())
    page = read_or_refused(lambda: render(load_run(run), {}))
    assert page is None or "<script" not in page


@examples("report of a run")
@given(st.data())
def test_reports(whole_run: Path, data: st.DataObject) -> None:
    """Every picture drawn of damaged files."""
    files = sorted(p for p in whole_run.rglob("*.json*") if p.parent.name != "report")
    path = data.draw(st.sampled_from(files))
    text = path.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DPI", 20)
        try:
            path.write_bytes(
                data.draw(damaged_lines(text if path.suffix == ".jsonl" else json.dumps(json.loads(text))))
            )
            page = read_or_refused(lambda: build_report(whole_run))
            assert page is None or "</html>" in page.read_text(encoding="utf-8")
        finally:
            path.write_text(text)
