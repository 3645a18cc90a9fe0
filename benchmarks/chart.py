# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture at the head of docs/benchmarks.md: the main ratio of each benchmark, read off its table."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nemo_elastic.report.style import INK, MUTED, colour, headline, house, new_figure

#: what is measured, what it is held against, and the cells that the ratio is of: one ratio, or ours and the other; a
#: cell behind "1 /" is a ratio the other way round
STEP, CUT, MEMBERS = "step of a 50 % member, 81M model", "cut a member out", "memory of three members"
BARS = (
    (STEP, "the full member's step", "bench_step; 81M; 0.50; sliced / full step"),
    (STEP, "the same step under masks", "bench_step; 81M; 0.50; sliced / masked"),
    ("memory of the distillation loss", "whole logits",
     "bench_distill; fused, into main_grad; 8192 tokens", "bench_distill; naive; 8192 tokens"),
    ("seconds of the distillation loss", "whole logits",
     "bench_distill; fused, into main_grad; seconds at 1024", "bench_distill; naive; seconds at 1024"),
    ("memory per token of context, 1.6M model", "llm.distill, recomputing",
     "bench_memory; 1.6M; elastic, both; of `llm.distill` with recomputation"),
    (f"seconds to {CUT}", "cp of that member", "1 / bench_slice; bytes per second against `cp`; "),
    (f"seconds to {CUT}", "transformers: load, index, save", "1 / bench_slice; ratio; seconds"),
    (f"memory to {CUT}", "transformers: load, index, save", "1 / bench_slice; ratio; anonymous memory"),
    (f"{MEMBERS}, one family", "the largest member alone",
     "bench_runtime; peak memory, all three in one family; measured #2"),
    (f"{MEMBERS}, three folders", "the largest member alone",
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


def ratio(tables: Path, cell: str, over: str | None = None) -> float:
    """Ours over the other."""
    value = number(tables, cell.removeprefix("1 / "))
    value = 1 / value if cell.startswith("1 / ") else value
    return value if over is None else value / number(tables, over)


def draw(tables: Path) -> Figure:
    """Bars from 1, to the left where ours takes less.

    Raises:
        LookupError: a table has not the cell that a bar is of.
    """
    ratios = [ratio(tables, *cells) for _, _, *cells in BARS]
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
        axes.set_yticks(places, [f"{what}\nover {other}" for what, other, *_ in BARS], fontsize=9, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        for place, value in zip(places, ratios, strict=True):
            ha, x = ("right", value / 1.04) if value <= 1 else ("left", value * 1.04)
            words = f"{value:.2f}×" if value >= 0.1 else f"{value:.3f}×"
            axes.text(x, place, words, ha=ha, va="center", fontsize=9.5, color=MUTED)
        headline(figure, "What it takes, over what it is held against", "left of 1×: less; logarithmic")
    return figure
