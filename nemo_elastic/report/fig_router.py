# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`router.png`: how a router decided: entropy of its choices, and expected cost against the target."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .drawing import WIDTH, Drawing, colour, name_ends, new_figure, short, thin
from .palette import INK, PALETTE, axis_colour, axis_words
from .run_record import Phase, RunRecord


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where no router ran."""
    phase = run.shaping
    axes, budgets = (phase.keys(prefix) if phase else [] for prefix in ("entropy_", "cost_"))
    if phase is None or not (axes or budgets):
        return None
    figure = new_figure(WIDTH, 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    _lines(top, phase, {f"entropy_{axis}": (axis_words(axis), axis_colour(axis)) for axis in axes})
    top.set_ylim(bottom=0)
    top.set(title="entropy: 1 undecided, 0 decided", ylabel="share of uniform")
    _lines(bottom, phase, {f"cost_{name}": (short(name), colour(run.place(name))) for name in budgets})
    bottom.axhspan(0.98, 1.02, color=PALETTE["within"], lw=0, zorder=0)
    bottom.axhline(1.0, color=INK, lw=1.0, ls=(0, (4, 3)), zorder=1)
    bottom.set(title="expected cost / target (band: ±2%)", ylabel="cost / target", xlabel=f"step of {phase.label}")
    bottom.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.get_layout_engine().set(hspace=0.05)  # pyright: ignore
    frozen = f" Shapes were frozen at step {run.shapes.step}." if run.shapes.step is not None else ""
    return Drawing(figure, "How the router decided", f"Each step trains one budget.{frozen}")


def _lines(axes: Axes, phase: Phase, keys: Mapping[str, tuple[str, str]]) -> None:
    """One line for each key of the steps, which has (name, colour); a single step is a point."""
    items: list[tuple[float, str, str]] = []
    for key, (name, paint) in keys.items():
        x, y = phase.series(key)
        if x:
            axes.plot(*thin(x, y), color=paint, lw=1.6, marker="o" if len(x) < 3 else "")
            items.append((y[-1], f"{name}  {y[-1]:.2f}", paint))
    axes.margins(x=0)
    name_ends(axes, items)
