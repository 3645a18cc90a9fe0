# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Results of the studies: kept one to a line as they come, read by the next call, and set into tables.

The results behind the tables of docs/evaluation.md, and of docs/studies/baselines.md, context.md and real.md, are in
`kept/`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.output import markdown

__all__ = ["KEPT", "REPORTED", "TUNED", "Kept", "by_name", "held_out_parts", "kept", "markdown", "spread"]

T = TypeVar("T")
#: of the documentation
KEPT = Path(__file__).with_name("kept")
#: the two halves of the held-out text
TUNED, REPORTED = "tuned", "reported"


def held_out_parts(tokens: T) -> dict[str, T]:
    """A stream of held-out tokens in two parts that share none: to choose by, and to report on."""
    stream: Any = tokens
    middle = len(stream) // 2
    return {TUNED: stream[:middle], REPORTED: stream[middle:]}


class Kept(Generic[T]):
    """Results of a study in a file, each written as soon as it is there and never made again.

    Args:
        file: one result to a line.
        kind: dictionaries, or a dataclass.
    """

    def __init__(self, file: Path, kind: Callable[..., T] = dict) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.results: list[T] = [kind(**json.loads(line)) for line in lines]

    def get(self, make: Callable[[], Sequence[T]], **fields: Any) -> list[T]:
        """The results that have these fields, made now if there are none."""
        if not self.find(**fields):
            made = list(make())
            with self.file.open("a") as file:
                file.writelines(json.dumps(_plain(result)) + "\n" for result in made)
            self.results += made
        return self.find(**fields)

    def find(self, **fields: Any) -> list[T]:
        """The results that have these fields."""
        return [result for result in self.results if fields.items() <= _plain(result).items()]


def _plain(result: Any) -> dict[str, Any]:
    return dict(result) if isinstance(result, Mapping) else vars(result)


def kept(study: str) -> dict[str, dict[str, Any]]:
    """Name of a run -> its result: those that the documentation shows."""
    return by_name(Kept(KEPT / f"{study}.jsonl").results)


def by_name(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name of a run -> its result."""
    return {result["job"]: result for result in results}


def spread(values: Sequence[float]) -> str:
    """Mean, and half of the range."""
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")
