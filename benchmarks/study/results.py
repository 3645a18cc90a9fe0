# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the studies' jobs found, of this machine's runs and those that the documentation shows; and tables of it.

The runs behind docs/studies are kept in `results.json` here, so that its tables and pictures can be made anew and
its runs be compared with another machine's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Results = Mapping[str, dict[str, Any]]
KEPT = Path(__file__).with_name("results.json")
#: first part of a job's name -> what it is
MAKERS = {
    "ours": "ours: all sizes in one run",
    "alone": "our shapes, each size alone",
    "modelopt": "ModelOpt + `llm.distill`, each size alone",
    "minitron": "ModelOpt 0.47's search + `llm.distill`, each size alone",
    "scratch": "from scratch, each size alone",
}


def read_results(runs: Path | None) -> dict[str, dict[str, Any]]:
    """Job name -> result: of the finished jobs below a folder, or the kept ones."""
    if runs is None:
        return json.loads(KEPT.read_text())
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(runs.glob("*/result.json"))}


def keep(results: Results) -> None:
    """Write the kept results anew, without paths of the machine that made them."""
    plain = {name: {k: v for k, v in results[name].items() if k != "ranking"} for name in sorted(results)}
    lines = [f"{json.dumps(name)}: {json.dumps(result)}" for name, result in plain.items()]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """Results of earlier calls of a study that keeps them one to a line: instances of a dataclass."""
    return [kind(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def add_lines(path: Path, *results: DataclassInstance) -> None:
    """Keep what was found now, before what comes next can fail."""
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(result)) + "\n" for result in results)


def named(results: Results, way: str, sizes: Sequence[str]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(steps, results that together have all sizes) of every seed and number of steps that is complete.

    Args:
        found: results.
        way: first part of the jobs' names: `way-steps-seed` makes all sizes, `way-size-steps-seed` one.
        sizes: names of the sizes.
    """
    levels = sorted({(r["steps"], r["seed"]) for name, r in results.items() if name.startswith(f"{way}-")})
    for steps, seed in levels:
        whole = f"{way}-{steps}-{seed}"
        names = [whole] if whole in results else [f"{way}-{size}-{steps}-{seed}" for size in sizes]
        family = [results[name] for name in names if name in results]
        if set(sizes) <= {size for result in family for size in result["losses"]}:
            yield steps, family


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    if not rows:
        return "*No runs yet.*\n"
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean, and the half-width of what was seen."""
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")
