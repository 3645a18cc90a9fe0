# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: the steps of a training run as one history, however often it was stopped and went on.

One JSON object per line, of kind "step" or "heldout", with the step and the tokens that counted in the loss so far.
Those that a loss mask leaves out, as padding, do not count. What a start does again counts once, as the later start
did it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.read import read_bytes

METRICS = "metrics.jsonl"
#: of a file that is read for a report, and of a line: little enough to hold
MOST_BYTES, MOST_OF_A_LINE = 1 << 26, 1 << 16
#: above this a step or a count of tokens is none
MOST = 2**53


@dataclass
class History:
    """What a file of metrics holds.

    Attributes:
        lines: the steps in order, each once.
        left_out: what of them no run writes, in words.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_history(path: Path) -> History:
    """Read a metrics file, which may be missing, or anything."""
    history, name = History(), str(Path(path.parent.name, path.name))
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            history.left_out.append(f"{name}: more than {MOST_BYTES >> 20} MiB")
        elif path.is_file():
            history.lines = lines_of(read_bytes(path, MOST_BYTES), name, history.left_out)
    except OSError as exc:
        history.left_out.append(f"{name}: cannot be read ({exc.strerror})")
    except ElasticError as exc:  # a pipe
        history.left_out.append(str(exc))
    return history


def up_to(lines: Iterable[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """The lines that a start from a checkpoint of `step` goes on from; it writes all others itself."""
    return [line for line in lines if line["step"] <= step] if step else []


def join(written: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines in the order in which they were written, as one run's: every step once."""
    kept: list[dict[str, Any]] = []
    for line in written:
        while kept and _is_redone(kept[-1], line):
            kept.pop()
        kept.append(line)
    return kept


def _is_redone(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the line `new`, written later, belongs to a start from before `old`; a step comes before its losses."""
    if old["step"] == new["step"]:
        return new["kind"] == "step" or old["kind"] == "heldout"
    return old["step"] > new["step"]


def lines_of(raw: bytes, name: str, left_out: list[str]) -> list[dict[str, Any]]:
    """The steps of a file's content; lines that no run writes are named in `left_out`."""
    wrong: list[int] = []
    usable: list[dict[str, Any]] = []
    for i, text in enumerate(raw.splitlines(), 1):
        if text.strip():
            line = _line(text)
            if line is None:
                wrong.append(i)
            else:
                usable.append(line)
    if wrong:
        named = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
        several = "s" * (len(wrong) > 1)
        left_out.append(f"{len(wrong)} line{several} of {name} that no run writes (line{several} {named})")
    return join(usable)


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
        return line if all(isinstance(x, dict) for x in (line.get("losses"), line.get("kl", {}))) else None
    return line if line.get("kind") == "step" else None
