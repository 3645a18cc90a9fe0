# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run that was stopped and started again, as one history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.history import METRICS, MOST_BYTES, MOST_OF_A_LINE, join, read_history, up_to

PER_STEP, EVERY = 256, 2


def step(i: int) -> dict[str, Any]:
    return {"kind": "step", "step": i, "tokens": PER_STEP * i, "seconds": float(i)}


def heldout(i: int) -> dict[str, Any]:
    return {"kind": "heldout", "step": i, "tokens": PER_STEP * i, "losses": {"a": 1.0 / (i + 1)}}


def steps(first: int, last: int, measured: bool = True) -> list[dict[str, Any]]:
    """What a start writes that goes on behind `first`."""
    lines = [heldout(0)] if measured and not first else []
    for i in range(first + 1, last + 1):
        lines += [step(i), heldout(i)] if measured and i % EVERY == 0 else [step(i)]
    return lines


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as f:
        f.write("".join(json.dumps(line) + "\n" for line in lines))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=4), st.booleans())
def test_stops_anywhere_leave_no_mark(stops: list[tuple[int, int]], measured: bool) -> None:
    """Each start comes so many steps further, of which the last ones are lost and done again."""
    written, at = [], 0
    for further, lost in stops:
        written += steps(at, at + further, measured)
        at = max(at, at + further - lost) if at + further - lost > 0 else 0
    written += steps(at, 20, measured)
    assert join(written) == steps(0, 20, measured)


def test_a_start_keeps_what_its_checkpoint_holds_and_a_fresh_one_nothing() -> None:
    assert up_to(steps(0, 5), 4) == steps(0, 4)
    assert up_to(steps(0, 5), 0) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "step", "st', "[1]", "[" * 100_000, "1" * 5000, '{"kind": "step", "tokens": 1}',
        '{"kind": "step", "step": 1.5, "tokens": 1}', '{"kind": "step", "step": true, "tokens": 1}',
        f'{{"kind": "step", "step": 1, "tokens": {10**400}}}',
        '{"kind": "heldout", "step": 1, "tokens": 1, "losses": [1]}',
        '{"kind": ["step"], "step": 1, "tokens": 1}',
        '{"kind": "step", "step": 2, "tokens": 512, "x": "' + "x" * MOST_OF_A_LINE + '"}',
    ],
    ids=range(11),
)  # fmt: skip
def test_a_line_that_no_run_writes_is_left_out_and_reported(tmp_path: Path, line: str) -> None:
    write(tmp_path / "stage1" / METRICS, [step(1)])
    with (tmp_path / "stage1" / METRICS).open("a") as f:
        f.write(line + "\n\n")
    write(tmp_path / "stage1" / METRICS, [step(2)])
    history = read_history(tmp_path / "stage1" / METRICS)
    assert history.lines == steps(0, 2, measured=False)
    assert history.left_out == [f"1 line of stage1/{METRICS} that no run writes (line 2)"]


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(b"\xff\xfe\x00\n" + json.dumps(step(1)).encode() + b"\n\x80")
    history = read_history(tmp_path / METRICS)
    assert history.lines == [step(1)] and "2 lines" in history.left_out[0]


@pytest.mark.parametrize("seconds", ["x", float("nan"), True])
def test_seconds_that_are_none_are_left_out(tmp_path: Path, seconds: Any) -> None:
    write(tmp_path / METRICS, [step(1) | {"seconds": seconds}, step(2)])
    assert [line.get("seconds") for line in read_history(tmp_path / METRICS).lines] == [None, 2.0]


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / METRICS).open("wb") as f:
        f.truncate(MOST_BYTES * 1000)
    history = read_history(tmp_path / METRICS)
    assert history.lines == [] and history.left_out[0].endswith(f"{METRICS}: more than 64 MiB")
    assert read_history(tmp_path / "none" / METRICS).lines == []
