# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Table of the ways to the same sizes: costs, losses, and what one way costs at another's losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.study.results import markdown, spread

#: of the families, as shares of the parent's parameters
SIZES = {"85": 0.85, "72": 0.72, "50": 0.5}
Results = Mapping[str, dict[str, Any]]
#: first part of a run's name -> what it is
MAKERS = {
    "ours": "ours: all sizes in one run",
    "alone": "our shapes, each size alone",
    "modelopt": "ModelOpt + `llm.distill`, each size alone",
    "after": "each size out of the size before",
    "scratch": "our shapes from scratch, each size alone",
}
UNITS = {"tokens": "tokens", "flops": "FLOPs", "cpu_seconds": "CPU seconds"}


def named(results: Results, way: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(steps, results that together have all sizes) of every number of steps and seed that is complete.

    `way-steps-seed` makes all sizes, `way-size-steps-seed` one of those that the way has.
    """
    sizes = {size for size in SIZES if any(name.startswith(f"{way}-{size}-") for name in results)} or {*SIZES}
    levels = sorted({(r["steps"], r["seed"]) for name, r in results.items() if name.startswith(f"{way}-")})
    for steps, seed in levels:
        whole = f"{way}-{steps}-{seed}"
        names = [whole] if whole in results else [f"{way}-{size}-{steps}-{seed}" for size in sizes]
        family = [results[name] for name in names if name in results]
        if sizes <= losses_of(family).keys():
            yield steps, family


def losses_of(family: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Losses of all sizes, from the one run or the several that made them."""
    return {size: loss for result in family for size, loss in result["losses"].items()}


def by_steps(results: Results, way: str) -> dict[int, list[list[dict[str, Any]]]]:
    """Steps -> the results of each seed."""
    out: dict[int, list[list[dict[str, Any]]]] = {}
    for steps, family in named(results, way):
        out.setdefault(steps, []).append(family)
    return dict(sorted(out.items()))


def page(results: Results) -> str:
    """Every way, and what each spends to reach ours."""
    return "\n".join([ways(results), ratios(results)])


def ways(results: Results) -> str:
    """Every way at every number of steps, what all sizes cost together, and their losses."""
    rows, names = [], ("full", *SIZES)
    for way, title in MAKERS.items():
        for steps, group in by_steps(results, way).items():
            tokens, flops, cpu = (statistics.mean(sum(r[unit] for r in f) for f in group) for unit in UNITS)
            losses = [spread([r["losses"][m] for f in group for r in f if m in r["losses"]]) for m in names]
            cost = [f"{tokens / 1e3:.0f}k", f"{flops / 1e12:.2f}", f"{cpu:.0f}"]
            rows.append([title, str(steps), str(len(group)), *cost, *losses])
    head = ["way", "steps of a run", "seeds", "tokens of all", "TFLOP of all", "CPU s of all", *names]
    return markdown(head, rows)


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


def ratio(results: Results, ours: str, way: str, seed: int, unit: str) -> str:
    """Spending of a baseline, once per size, to reach the losses of one of our runs for all sizes, over that run's.

    Single sizes of our shapes are charged, once, for the ranking and the search that found them.
    """
    run = results[ours]
    total = run.get("flops_before_training", 0.0) if (way, unit) == ("alone", "flops") else 0.0
    marks = set()
    for size in SIZES:
        group = [r for n, r in results.items() if n.startswith(f"{way}-{size}-") and r["seed"] == seed]
        if len(group) < 2:
            return ""
        spent, mark = level([(r[unit], r["losses"][size]) for r in group], run["losses"][size])
        total += spent
        marks.add(mark)
    mark = ">" if ">" in marks else "<" if "<" in marks else ""
    return f"{mark}{total / run[unit]:.2f}"


def ratios(results: Results) -> str:
    """Baselines' spending over that of our runs, at equal loss of every size."""
    rows = []
    for steps, seed, name in sorted((r["steps"], r["seed"], n) for n, r in results.items() if n.startswith("ours-")):
        for way in ("modelopt", "alone"):
            cells = [ratio(results, name, way, seed, unit) for unit in UNITS]
            if all(cells):
                rows.append([MAKERS[way], str(steps), str(seed), *cells])
    return markdown(["spent over ours, at our losses", "our steps", "seed", *UNITS.values()], rows)


def rates(results: Results) -> str:
    """Losses of every way and size at the peak rates that were tried, the least in bold."""
    tried: dict[tuple[str, str], dict[float, float]] = {}
    for name, result in results.items():
        if name.startswith("rate-"):
            _, way, *size, lr, _, _ = name.split("-")
            losses = [loss for member, loss in result["losses"].items() if member in SIZES]
            tried.setdefault((way, size[0] if size else "mean"), {})[float(lr)] = statistics.mean(losses)
    columns = sorted({lr for of in tried.values() for lr in of})
    rows = []
    order = [(way, size) for way in MAKERS for size in ("mean", *SIZES)]
    for way, size in filter(tried.__contains__, order):
        of = tried[way, size]
        best = min(of, key=lambda lr: of[lr])
        cells = [f"{of[lr]:.3f}" if lr in of else "" for lr in columns]
        rows.append(
            [MAKERS[way], size, *(f"**{c}**" if lr == best else c for lr, c in zip(columns, cells, strict=True))]
        )
    return markdown(["way", "size", *(f"{lr:g}" for lr in columns)], rows)
