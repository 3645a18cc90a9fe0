# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`router.png`: how the router decided: entropy, expected cost against the target, temperature and scale."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .load import Phase, Run
from .style import AXES, AXIS_WORDS, INK, MUTED, colour, end_labels, headline, new_figure, short

TAU, SCALE = "#d55e00", "#0072b2"


def draw(run: Run) -> Figure | None:
    """Draw it; None where no router ran."""
    phase = run.phase("stage1")
    if phase is None or not (phase.keys("entropy_") or phase.keys("cost_")):
        return None
    until = run.shapes.step
    figure = new_figure(9.4, 6.6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1.25, 1.25, 0.8])
    _entropy(top, phase, until)
    _cost(middle, phase, until, run)
    _schedule(bottom, phase, until)
    bottom.set_xlabel("step of stage 1")
    steps = [s for key in ("router_tau", "router_scale") for s in phase.series(key, until)[0]]
    if steps:
        bottom.set_xlim(min(steps), max(steps) if max(steps) > min(steps) else max(steps) + 1)
    figure.get_layout_engine().set(hspace=0.05)  # pyright: ignore
    frozen = f" Shapes were frozen at step {until}." if until is not None else ""
    headline(figure, "How the router decided", f"Each step trains one budget; lines are running means.{frozen}")
    return figure


def smooth(values: list[float], span: int = 9) -> list[float]:
    """Running mean over a centred window that shrinks at both ends."""
    half = span // 2
    out = []
    for i in range(len(values)):
        k = min(half, i, len(values) - 1 - i)
        out.append(sum(values[i - k : i + k + 1]) / (2 * k + 1))
    return out


def _entropy(axes: Axes, phase: Phase, until: int | None) -> None:
    items = []
    last = 0.0
    for axis in phase.keys("entropy_"):
        x, y = phase.series(f"entropy_{axis}", until)
        if not x:
            continue
        paint = AXES.get(axis, MUTED)
        axes.plot(x, y, color=paint, lw=0.8, alpha=0.3)
        axes.plot(x, smooth(y), color=paint, lw=2.2)
        items.append((sum(y) / len(y), AXIS_WORDS.get(axis, short(axis)), paint))
        last = max(last, x[-1])
    axes.set_ylim(-0.03, 1.04)
    axes.set(title="entropy of its choices: 1 undecided, 0 decided", ylabel="share of uniform")
    end_labels(axes, last, items)


def _cost(axes: Axes, phase: Phase, until: int | None, run: Run) -> None:
    names = run.names
    items: list[tuple[float, str, str]] = []
    last = 0.0
    seen: list[float] = [0.95, 1.05]
    for k, name in enumerate(phase.keys("cost_")):
        x, y = phase.series(f"cost_{name}", until, changes=True)
        if not x:
            continue
        paint = colour(names.index(name) if name in names else k)
        axes.plot(x, y, ".", color=paint, ms=4, alpha=0.35, mew=0)
        axes.plot(x, smooth(y), color=paint)
        items.append((smooth(y)[-1], f"{short(name)}  {y[-1]:.2f}", paint))
        last, seen = max(last, x[-1]), seen + y
    axes.axhspan(0.98, 1.02, color="#e6f3ec", lw=0, zorder=0)
    axes.axhline(1.0, color=INK, lw=1.0, ls=(0, (4, 3)), zorder=1)
    pad = 0.06 * (max(seen) - min(seen))
    axes.set_ylim(min(seen) - pad, max(seen) + pad)
    axes.set(title="expected cost over its target (band: ±2%)", ylabel="cost / target")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.2f}"))
    end_labels(axes, last, items)


def _schedule(axes: Axes, phase: Phase, until: int | None) -> None:
    tau, scale = phase.series("router_tau", until), phase.series("router_scale", until)
    axes.set_title("schedules: temperature τ and scale of the logits")
    axes.set_ylabel("τ", color=TAU)
    axes.tick_params(axis="y", colors=TAU)
    if tau[0]:
        axes.plot(*tau, color=TAU)
        axes.set_ylim(0, max(tau[1]) * 1.12)
    if scale[0]:
        twin = axes.twinx()
        twin.plot(*scale, color=SCALE)
        twin.set_ylim(0, max(scale[1]) * 1.12)
        twin.set_ylabel("scale", color=SCALE)
        twin.tick_params(axis="y", colors=SCALE)
        twin.grid(visible=False)
