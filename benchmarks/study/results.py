# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Results of the studies: kept one to a line as they come, read by the next call, and set into tables.

The results behind the tables of docs/studies/baselines.md and context.md are in `kept/`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
KEPT = Path(__file__).with_name("kept")
#: the two halves of the held-out text
TUNED, REPORTED = "tuned", "reported"


def held_out_parts(tokens: T) -> dict[str, T]:
    """A stream of held-out tokens in two parts that share none: to choose by, and to report on."""
    stream: Any = tokens
    middle = len(stream) // 2
    return {TUNED: stream[:middle], REPORTED: stream[middle:]}


def read_lines(path: Path, kind: Any = dict) -> list[Any]:
    """Results of earlier calls, as dictionaries or as a dataclass."""
    return [kind(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def add_lines(path: Path, *results: Any) -> None:
    """Keep results now, before the next run can fail."""
    plain = [asdict(result) if is_dataclass(result) else result for result in results]
    with path.open("a") as file:
        file.writelines(json.dumps(result) + "\n" for result in plain)


def kept(study: str) -> dict[str, dict[str, Any]]:
    """Name of a run -> its result: those that the documentation shows."""
    return by_name(read_lines(KEPT / f"{study}.jsonl"))


def by_name(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name of a run -> its result."""
    return {result["job"]: result for result in results}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    if not rows:
        return "*No runs yet.*\n"
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean, and half of the range."""
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")
