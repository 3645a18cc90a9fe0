# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture at the head of docs/benchmarks.md: the main ratio of each benchmark, read off its table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nemo_elastic.report.drawing import INK, MUTED, colour, headline, house, new_figure
from tools.prose_figures import Number, cell


@dataclass(frozen=True)
class Bar:
    """One ratio.

    Attributes:
        what: of ours; against: what it is over.
        where: the cell, as a reference in prose names it; over: that of the other, where the first is no ratio yet.
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
    Bar("layers run to order the layers", "every candidate whole", "bench_rank; and candidates given up; layers"),
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


def ratio(tables: Path, bar: Bar) -> float:
    """Ours over the other."""
    value = Number.of(cell(tables, bar.where)[0]).value
    if bar.over is not None:
        value /= Number.of(cell(tables, bar.over)[0]).value
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
