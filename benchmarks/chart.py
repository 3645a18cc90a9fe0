# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture at the head of docs/benchmarks.md: the main ratio of each benchmark, read off its table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nemo_elastic.report.style import INK, MUTED, colour, headline, house, new_figure


@dataclass(frozen=True)
class Bar:
    """One ratio.

    Attributes:
        what: of ours; against: what it is over.
        where: the cell, see `number`; over: that of the other, where the first is no ratio yet.
        inverse: the table has it the other way round.
    """

    what: str
    against: str
    where: str
    over: str | None = None
    inverse: bool = False


BARS = (
    Bar("step of a 50 % member, 81M model", "the full member's step", "bench_step; 81M; 0.50; sliced / full step"),
    Bar("step of a 50 % member, 81M model", "the same step under masks", "bench_step; 81M; 0.50; sliced / masked"),
    Bar("memory of the distillation loss", "whole logits",
        "bench_distill; fused, into main_grad; 8192 tokens", "bench_distill; naive; 8192 tokens"),
    Bar("seconds of the distillation loss", "whole logits", "bench_distill; fused, into main_grad; seconds at 1024",
        "bench_distill; naive; seconds at 1024"),
    Bar("memory per token of context, 1.6M model", "llm.distill, recomputing",
        "bench_memory; 1.6M; elastic, both; of `llm.distill` with recomputation"),
    Bar("seconds to cut a member out", "cp of that member", "bench_slice; bytes per second against `cp`; ",
        inverse=True),
    Bar("seconds to cut a member out", "transformers: load, index, save", "bench_slice; ratio; seconds", inverse=True),
    Bar("memory to cut a member out", "transformers: load, index, save", "bench_slice; ratio; anonymous memory",
        inverse=True),
    Bar("memory of three members, one family", "the largest member alone",
        "bench_runtime; peak memory, all three in one family; measured #2"),
    Bar("memory of three members, three folders", "the largest member alone",
        "bench_runtime; peak memory, three folders; measured #2"),
)  # fmt: skip


def number(tables: Path, where: str) -> float:
    """A number of a table: `file; keys …; column`, with `#2` behind it for the second number of the cell.

    The keys are cells of the row, or how the line above its table begins; they leave one row.

    Raises:
        LookupError: there is no such cell, or more than one.
    """
    file, *keys, column = (part.strip() for part in where.split(";"))
    column, _, which = (part.strip() for part in column.partition("#"))
    heading, header, fits = "", None, []
    for line in (tables / f"{file}.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            heading, header = (line if line.endswith(":") else heading), None
            continue
        row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = row
        elif column in header and all(key in row or heading.startswith(key) for key in keys):
            fits.append(row[header.index(column)])
    if len(fits) != 1:
        raise LookupError(f"{len(fits)} rows of {file}.md have a column {column!r} and {', '.join(keys) or 'no keys'}")
    return float(re.findall(r"\d+(?:\.\d+)?", fits[0].replace(",", ""))[int(which or 1) - 1])


def ratio(tables: Path, bar: Bar) -> float:
    """Ours over the other."""
    value = number(tables, bar.where)
    if bar.over is not None:
        value /= number(tables, bar.over)
    return 1 / value if bar.inverse else value


def draw(tables: Path) -> Figure:
    """Bars from 1, to the left where ours takes less.

    Raises:
        LookupError: a table has not the cell that a bar is of.
    """
    ratios = [ratio(tables, bar) for bar in BARS]
    with house():
        figure = new_figure(9.4, 0.42 * len(BARS) + 1.5)
        axes = figure.subplots()
        places = range(len(BARS))
        colours = [colour(0 if value <= 1 else 1) for value in ratios]
        axes.barh(places, [value - 1 for value in ratios], left=1, height=0.62, color=colours)
        axes.axvline(1, color=INK, lw=1)
        axes.set_xscale("log")
        axes.set_xlim(min(ratios) / 2, 2 * max(1.0, *ratios))
        axes.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.set_yticks(places, [f"{bar.what}\nover {bar.against}" for bar in BARS], fontsize=9, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        for place, value in zip(places, ratios, strict=True):
            ha, x = ("right", value / 1.04) if value <= 1 else ("left", value * 1.04)
            axes.text(
                x,
                place,
                f"{value:.2f}×" if value >= 0.1 else f"{value:.3f}×",
                ha=ha,
                va="center",
                fontsize=9.5,
                color=MUTED,
            )
        headline(figure, "What it takes, over what it is held against", "left of 1×: less; logarithmic")
    return figure
