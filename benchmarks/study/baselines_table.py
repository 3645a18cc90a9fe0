# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of ways to the same sizes: what they cost, their losses, and what one costs at another's losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.study.modelopt_baseline import SAMPLES
from benchmarks.study.plots import UNITS, losses_of
from benchmarks.study.results import MAKERS, Results, markdown, named, spread
from benchmarks.study.sizes import THREE

#: sequences that our importance is measured on, and their share of the baselines'
OURS = 64
FEWER = OURS / SAMPLES


def level(points: Sequence[tuple[float, float]], loss: float) -> tuple[float, str]:
    """Spending at which a curve reaches a loss: log-linear between its points.

    Args:
        points: (spent, loss), the spending rising.
        loss: to reach.

    Returns:
        What it takes, and "" within the points, "<" where the first has it already, ">" where the last has not.
    """
    points = sorted(points)
    if loss >= points[0][1]:
        return points[0][0], "<"
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= loss <= y0:
            share = (y0 - loss) / (y0 - y1) if y0 > y1 else 0.0
            return math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0))), ""
    return points[-1][0], ">"


def ratio(results: Results, ours: str, kind: str, sizes: Sequence[str], seed: int, unit: str) -> str:
    """Spending of a baseline, once per size, to reach the losses of one of our runs for all sizes, over that run's.

    Those of our shapes are charged, once, for the ranking and the search that found them.
    """
    found_shapes = (
        results[ours].get("flops_before_training", 0.0)
        if (kind.rpartition("-")[2], unit) == ("alone", "flops")
        else 0.0
    )
    total, marks = found_shapes, set()
    for size in sizes:
        group = [r for n, r in results.items() if n.startswith(f"{kind}-{size}-") and r["seed"] == seed]
        if len(group) < 2:
            return ""
        spent, mark = level([(r[unit], r["losses"][size]) for r in group], results[ours]["losses"][size])
        total += spent
        marks.add(mark)
    mark = ">" if ">" in marks else "<" if "<" in marks else ""
    return f"{mark}{total / results[ours][unit]:.2f}"


def ways(results: Results, sizes: Sequence[str], prefix: str = "") -> list[list[str]]:
    """Rows: every way at every number of steps, what all sizes cost together, and their losses.

    Args:
        found: results.
        sizes: names of those below the parent's.
        prefix: of the jobs' names.
    """
    rows = []
    for way, title in MAKERS.items():
        families: dict[int, list[list[dict[str, Any]]]] = {}
        for steps, family in named(results, prefix + way, sizes):
            families.setdefault(steps, []).append(family)
        for steps, group in sorted(families.items()):
            total = [statistics.mean(sum(r[unit] for r in f) for f in group) for unit in UNITS]
            losses = [spread([r["losses"][m] for f in group for r in f if m in r["losses"]]) for m in ("full", *sizes)]
            rows.append([title, str(steps), str(len(group)), *costs(*total), *losses])
    return rows


def costs(tokens: float, flops: float, seconds: float) -> list[str]:
    """Cells of what was spent."""
    return [f"{tokens / 1e3:.0f}k", f"{flops / 1e12:.2f}", f"{seconds:.0f}"]


def head(sizes: Sequence[str]) -> list[str]:
    """Of `ways`."""
    return ["way", "steps of a run", "seeds", "tokens of all", "TFLOP of all", "CPU s of all", "full", *sizes]


def baselines(results: Results, sizes: Collection[str] = tuple(THREE), prefix: str = "") -> str:
    """The ways of a study of the baselines, whose jobs' names have a prefix, and what each spends to reach ours."""
    tables = [
        markdown(head([*sizes]), ways(results, [*sizes], prefix)),
        ratios(results, [*sizes], f"{prefix}ours", prefix),
        beside_alone(results, [*sizes], prefix),
    ]
    return "\n".join(tables)


def beside_alone(results: Results, sizes: Sequence[str], prefix: str) -> str:
    """Losses of our runs less those of the same shapes alone for as many FLOPs, ranking and search once in both."""
    rows = []
    for steps, (run,) in named(results, f"{prefix}ours", sizes):
        alone = [each for _, each in named(results, f"{prefix}alone", sizes) if each[0]["seed"] == run["seed"]]
        # rises with the steps, in whose order they come
        spent = [run["flops_before_training"] + sum(r["flops"] for r in each) for each in alone]
        if not alone or not spent[0] <= run["flops"] <= spent[-1]:
            continue
        losses = {size: [losses_of(each)[size] for each in alone] for size in sizes}
        theirs = {size: np.interp(math.log(run["flops"]), np.log(spent), losses[size]) for size in sizes}
        rows.append([str(steps), str(run["seed"]), *(f"{1e3 * (run['losses'][s] - theirs[s]):+.1f}" for s in sizes)])
    return markdown(["ours less alone for as many FLOPs, 0.001 nats: our steps", "seed", *sizes], rows)


def as_few(results: Results, prefix: str) -> Results:
    """The same where baselines measure importance on as few sequences as ours do: their FLOPs are fewer."""
    measured = [r["flops"] for name, r in results.items() if name.startswith(f"{prefix}pruned-")]
    if not measured:
        return results
    saved = measured[0] * (1 - FEWER)
    theirs = (f"{prefix}modelopt-", f"{prefix}minitron-")
    return {n: r | {"flops": r["flops"] - saved} if n.startswith(theirs) else r for n, r in results.items()}


def ratios(results: Results, sizes: Sequence[str], ours: str, prefix: str = "") -> str:
    """Baselines' spending over that of our runs, whose names begin with `ours`, at equal loss of every size."""
    rows, fewer = [], as_few(results, prefix)
    runs = [(r["steps"], r["seed"], name) for name, r in results.items() if name.startswith(f"{ours}-")]
    for steps, seed, name in sorted(runs):
        for kind in ("modelopt", "minitron", "alone"):
            cells = [ratio(results, name, prefix + kind, sizes, seed, unit) for unit in UNITS]
            cells.append(ratio(fewer, name, prefix + kind, sizes, seed, "flops"))
            if all(cells):
                rows.append([MAKERS[kind], str(steps), str(seed), *cells])
    units = ["tokens", "FLOPs", "CPU seconds", f"FLOPs, importance on {OURS} sequences"]
    return markdown(["spent over ours, at our losses", "our steps", "seed", *units], rows)


def rates(tried: Mapping[tuple[str, str], Mapping[float, float]], of_all: str) -> str:
    """Losses by way, size and peak rate, the best one bold.

    Args:
        tried: (way, size) -> peak rate -> loss; the size is "all" where one run makes every one.
        of_all: what the loss of such a run is.
    """
    columns = sorted({lr for losses in tried.values() for lr in losses})
    rows = []
    for (way, size), losses in tried.items():
        cells = [f"{losses[lr]:.3f}" if lr in losses else "" for lr in columns]
        if losses:
            best = columns.index(min(losses, key=losses.__getitem__))
            cells[best] = f"**{cells[best]}**"
            rows.append([MAKERS[way], of_all if size == "all" else size, *cells])
    return markdown(["way", "size", *(f"{lr:g}" for lr in columns)], rows)
