# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the studies; those of ways to the same sizes: held-out loss of each over what all together cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.study.auto_table import groups_of, picture
from benchmarks.study.results import MAKERS, Results, named
from benchmarks.study.sizes import EXPERTS_SIZES, FIVE, THREE
from nemo_elastic.report.style import INK, MUTED, colour, headline, house, marker, new_figure

#: indices of the report's colours and markers; models from scratch lie so far above that they have words instead
COLOURS = {"ours": 0, "alone": 2, "modelopt": 1, "minitron": 3}
UNITS = {
    "tokens": "training tokens of all sizes",
    "flops": "FLOPs of all sizes",
    "cpu_seconds": "CPU seconds of all sizes",
}


def curves(
    results: Results, sizes: Sequence[str], unit: str, prefix: str = ""
) -> dict[str, dict[str, list[tuple[float, float, float, float]]]]:
    """Way -> size -> (spent on all sizes, mean loss, lowest, highest over seeds) by rising number of steps."""
    out: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for way in MAKERS:
        groups: dict[int, list[tuple[float, dict[str, float]]]] = {}
        for steps, family in named(results, prefix + way, sizes):
            groups.setdefault(steps, []).append((sum(r[unit] for r in family), losses_of(family)))
        for steps in sorted(groups):
            for size in sizes:
                losses = [losses[size] for _, losses in groups[steps]]
                spent = [each for each, _ in groups[steps]]
                point = (sum(spent) / len(spent), sum(losses) / len(losses), min(losses), max(losses))
                out.setdefault(way, {}).setdefault(size, []).append(point)
    return out


def losses_of(family: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Losses of all sizes, from the one run or the several that made them."""
    return {size: loss for result in family for size, loss in result["losses"].items()}


def short(value: float) -> str:
    """A count with its unit: 50, 120k, 3T."""
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1.0, ""))
    return f"{value / size:.3g}{unit}"


def pictures(results: Results) -> dict[str, Figure]:
    """File name -> picture, of those whose runs are there."""
    drawn = {
        f"study_{name}.svg": draw(results, sizes, prefix)
        for name, sizes, prefix in (
            ("baselines", THREE, ""),
            ("five", FIVE, "five-"),
            ("experts", EXPERTS_SIZES, "experts-"),
        )
        if curves(results, list(sizes), "tokens", prefix)
    }
    groups = groups_of(results)
    return drawn | ({"study_auto.svg": picture(groups)} if all(groups.values()) else {})


def above(scratch: Mapping[str, Sequence[tuple[float, float, float, float]]]) -> str:
    """What is not drawn, in words."""
    losses = [point[1] for points in scratch.values() for point in points]
    return f"; from scratch: {min(losses):.2f} to {max(losses):.2f}, above the picture" if losses else ""


def draw(results: Results, sizes: Mapping[str, float], prefix: str = "") -> Figure:
    """Two sizes side by side, one row per unit of cost; more sizes by FLOPs alone. `prefix` is of the jobs' names."""
    units = {unit: words for unit, words in UNITS.items() if len(sizes) == 2 or unit == "flops"}
    panels = [(unit, size) for unit in units for size in sizes]
    with house():
        figure = new_figure(4.4 * 2, 3.2 * (len(panels) // 2))
        grid = figure.subplots(len(panels) // 2, 2, squeeze=False, sharey="col" if len(sizes) == 2 else False)
        parent = results[f"{prefix}parent"]["losses"]["full"]
        steps = [steps for way in COLOURS for steps, _ in named(results, prefix + way, list(sizes))]
        lines = {unit: curves(results, list(sizes), unit, prefix) for unit in units}
        for axes, (unit, size) in zip(grid.flat, panels, strict=True):
            for way, by_size in ((way, by_size) for way, by_size in lines[unit].items() if way in COLOURS):
                name, index = MAKERS[way].replace("`", ""), COLOURS[way]
                spent, mean, low, high = zip(*by_size[size], strict=True)
                axes.plot(spent, mean, color=colour(index), marker=marker(index), ms=5, mec="white", label=name)
                axes.vlines(spent, low, high, color=colour(index), lw=1.2)
            axes.axhline(parent, color=INK, lw=1, ls=(0, (4, 3)))
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(units[unit])
            if unit == next(iter(units)):
                axes.set_title(f"{sizes[size]:.0%} of the parent's parameters")
        for row in grid:
            row[0].set_ylabel("held-out loss, nats")
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        grid[0][-1].text(0.99, parent, "the parent ", transform=grid[0][-1].get_yaxis_transform(), ha="right",
                         va="bottom", color=MUTED, fontsize=9)  # fmt: skip
        headline(
            figure,
            "What it takes to reach a loss at every size",
            f"marks: {min(steps)} to {max(steps)} steps per run; bars: lowest and highest of the seeds"
            + above(lines["flops"].get("scratch", {})),
        )
    return figure
