# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The time that a demo still takes."""

from __future__ import annotations

import pytest

from nemo_elastic.demo.seconds import TimeLeft


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
