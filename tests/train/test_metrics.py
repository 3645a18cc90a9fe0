# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How far a training is: a line that moves in a terminal, few lines elsewhere."""

from __future__ import annotations

import sys

import pytest

from nemo_elastic.train import metrics
from nemo_elastic.train.metrics import Progress


def train(first: int, total: int, prints: bool = True) -> None:
    progress = Progress("stage 1", total, first)
    for done in range(first + 1, total + 1):
        progress.show(done, {"loss_full": 3.0 - done / total}, prints)


def test_few_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    train(0, 430)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == metrics.PARTS
    assert lines[0].startswith("  stage 1: step 43/430  full 2.900") and "step 430/430  full 2.000" in lines[-1]
    train(215, 430)  # of a run that goes on, too
    assert len(capsys.readouterr().out.splitlines()) == metrics.PARTS // 2
    train(0, 3)
    assert len(capsys.readouterr().out.splitlines()) == 3
    train(0, 430, prints=False)
    assert capsys.readouterr().out == ""


def test_a_line_that_moves_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(metrics, "OFTEN", 0.0)
    train(0, 20)
    out = capsys.readouterr().out
    assert out.count("\r") == 20 and out.count("\n") == 1 and out.endswith("\n")
