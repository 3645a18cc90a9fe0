# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's seconds, phase by phase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_elastic.demo.seconds import TimeLeft, table
from nemo_elastic.errors import ElasticError
from tests.report.fabricate import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps of 0.11 s: 260 of them in stage 1."""
    return make_run(tmp_path / "run")


def test_every_phase_has_its_share_and_training_its_parts(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["seconds"]["total"] = 215.6  # the sum of its phases
    (run / "metrics.json").write_text(json.dumps(metrics))
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in table(run).splitlines()}
    assert rows["data"] == ["21.0", "10%", "", "", ""]
    assert rows["stage 1"] == ["61.4", "28%", "0.1", "28.5", "32.8"]
    assert rows["total"] == ["215.6", "100%", "", "", ""]


def test_a_demo_that_did_not_finish_is_refused(run: Path) -> None:
    (run / "metrics.json").unlink()
    with pytest.raises(ElasticError, match="a finished demo"):
        table(run)


def test_time_left_goes_by_what_the_phases_took_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 120.0, 120.0, 400.0, 160.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    left = TimeLeft({"data": 10.0, "parent": 100.0, "report": 200.0})
    assert (left.pace, left.seconds, left.in_words()) == (1.0, 310.0, "about 5 min left")
    left.start("data")
    assert left.seconds == 306.0, "four seconds are over"
    assert left.end("data") == 20.0 and left.seconds == 600.0, "half as fast as was expected"
    left.start("parent")
    assert left.seconds == 400.0, "it takes longer than was expected: only what comes behind it is left"
    assert left.end("parent") == 40.0 and left.in_words() == "about 2 min left"
    assert (left.after("data"), left.after("parent"), left.after("report")) == ("parent", "report", None)
    assert [left.place(phase) for phase in ("data", "report")] == ["1 of 3", "3 of 3"]
