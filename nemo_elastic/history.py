# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: the steps of a training run as one history, however often it was stopped and went on.

One JSON object per line, of kind "step" or "heldout", with the step and the tokens that counted in the loss so far.
Those that a loss mask leaves out, as padding, do not count; version 0.1 counted them. What a start does again counts
once, as the later start did it. NeMo moves the files of a log directory to `run_0`, `run_1`, … when a run starts again
there; version 0.1 let it, and counted tokens and seconds from each start. Such parts are read as one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.bounded import read_bytes

METRICS = "metrics.jsonl"
#: of a file and of a line: far above what any run writes, and little enough to read
MOST_BYTES, MOST_OF_A_LINE = 1 << 26, 1 << 16
#: above this a step or a count of tokens is none
MOST = 2**53
#: what grows over a run; tokens stand still over a step of which none counts
COUNTED = ("seconds", "tokens")


@dataclass
class History:
    """What files of metrics hold.

    Attributes:
        lines: the steps in order, each once.
        left_out: what of them no run writes, in words; files are named from the folder above that of the metrics.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_history(path: Path) -> History:
    """Read a metrics file, and what NeMo has moved away from it; all may be missing."""
    moved = sorted((p for p in path.parent.glob(f"run_*/{path.name}") if _number_of(p) >= 0), key=_number_of)
    history, written = History(), []
    for file in (*moved, path):
        if file.is_file():
            written += _lines(file, str(file.relative_to(path.parent.parent)), history.left_out)
    history.lines = join(written)
    return history


def up_to(lines: Iterable[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """The lines that a start from a checkpoint of `step` goes on from; it writes all others itself."""
    return [line for line in lines if line["step"] <= step] if step else []


def join(written: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines in the order in which they were written, as one run's: every step once, counts that go on."""
    kept: list[dict[str, Any]] = []
    before: dict[str, float] = dict.fromkeys(COUNTED, 0)  # what the starts before the present one counted
    for line in written:
        while kept and _is_redone(kept[-1], line):
            kept.pop()
            before = dict.fromkeys(COUNTED, 0)
        line, goes_on = dict(line), False
        for name in COUNTED:
            last = next((old for old in reversed(kept[-3:]) if name in old), None)
            if last is not None and name in line:
                more = line[name] + before[name] - last[name]
                if more < 0 or (more == 0 and line["step"] > last["step"] and not goes_on):
                    before[name] = last[name]  # this start counts anew
                else:
                    goes_on = True
                line[name] += before[name]
        kept.append(line)
    return kept


def _is_redone(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the line `new`, written later, belongs to a start from before `old`; a step comes before its losses."""
    if old["step"] == new["step"]:
        return new["kind"] == "step" or old["kind"] == "heldout"
    return old["step"] > new["step"]


def _number_of(moved: Path) -> int:
    """Which run a folder `run_3` is of; -1 for another folder."""
    digits = moved.parent.name.removeprefix("run_")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1


def _lines(path: Path, name: str, left_out: list[str]) -> Iterator[dict[str, Any]]:
    """The usable lines of a file; the rest is named."""
    wrong: list[int] = []
    try:
        if path.stat().st_size > MOST_BYTES:
            left_out.append(f"{name}: more than {MOST_BYTES >> 20} MiB")
            return
        for i, raw in enumerate(read_bytes(path, MOST_BYTES).splitlines(), 1):
            if raw.strip():
                line = _line(raw)
                if line is None:
                    wrong.append(i)
                else:
                    yield line
    except OSError as exc:
        left_out.append(f"{name}: cannot be read ({exc.strerror})")
    except ElasticError as exc:  # a pipe, or a link to another's file
        left_out.append(str(exc))
    if wrong:
        named = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
        several = "s" * (len(wrong) > 1)
        left_out.append(f"{len(wrong)} line{several} of {name} that no run writes (line{several} {named})")


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST


def _line(raw: bytes) -> dict[str, Any] | None:
    """A line that a run may have written; None for another."""
    try:
        line = json.loads(raw) if len(raw) <= MOST_OF_A_LINE else None
    except (ValueError, RecursionError):  # the former also for bytes that are no UTF-8
        return None
    if not isinstance(line, dict):
        return None
    for name in ("step", "tokens"):
        value: Any = line.get(name)
        if not _is_amount(value) or value != math.floor(value):
            return None
        line[name] = int(value)
    if not _is_amount(line.get("seconds", 0)):
        del line["seconds"]
    if line.get("kind") == "heldout":
        return line if isinstance(line.get("losses"), dict) else None
    return line if line.get("kind") == "step" else None
