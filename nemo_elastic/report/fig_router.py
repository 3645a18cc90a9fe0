# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`router.png`: how the router decided: entropy, expected cost against the target, temperature and scale."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nemo_elastic.core.limits import LIMITS

from .drawing import WIDTH, Drawing, colour, name_ends, new_figure, short, thin
from .palette import INK, PALETTE, axis_colour, axis_words
from .run_record import Phase, RunRecord

TAU, SCALE = PALETTE["m7"], PALETTE["m8"]


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where no router ran."""
    phase = run.routed
    if phase is None:
        return None
    until = run.shapes.step
    figure = new_figure(WIDTH, 6.2)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1.25, 1.25, 0.8])
    keys = ["router_tau", "router_scale", *(f"{k}{n}" for k in ("entropy_", "cost_") for n in phase.keys(k))]
    steps = [x[i] for key in keys if (x := phase.series(key, until)[0]) for i in (0, -1)] or [0.0]
    start, end = min(steps), max(steps) if max(steps) > min(steps) else min(steps) + 1
    bottom.set_xlim(start, end)
    _entropy(top, phase, until)
    _cost(middle, phase, until, run)
    _schedule(bottom, phase, until)
    bottom.set_xlabel(f"step of {phase.label}")
    bottom.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.get_layout_engine().set(hspace=0.05)  # pyright: ignore
    frozen = f" Shapes were frozen at step {until}." if until is not None else ""
    words = f"Each step trains one budget; lines are running means.{frozen}"
    return Drawing(figure, "How the router decided", words, _claim(run, phase, until))


def _claim(run: RunRecord, phase: Phase, until: int | None) -> str:
    """What became of its choices, from what was logged and of which shapes are known."""
    sentences = []
    means = [smooth(y) for axis in phase.keys("entropy_") if (y := phase.series(f"entropy_{axis}", until)[1])]
    if means:
        first, last = (sum(mean[at] for mean in means) / len(means) for at in (0, -1))
        sentences.append(
            f"The mean entropy of its choices was {first:.2f} of uniform at the start and {last:.2f} at the end."
        )
    first, frozen = run.shapes.first, run.shapes.frozen
    both = first.keys() & frozen.keys()
    if both:
        changed = sum(first[name] != frozen[name] for name in both)
        sentences.append(f"Of the {len(both)} shapes that it began with it changed {changed or 'none'}.")
    return " ".join(sentences)


def smooth(values: list[float], span: int = 9) -> list[float]:
    """Running mean over a centred window that shrinks at both ends."""
    half = span // 2
    out = []
    for i in range(len(values)):
        k = min(half, i, len(values) - 1 - i)
        out.append(sum(values[i - k : i + k + 1]) / (2 * k + 1))
    return out


def _dot(x: Sequence[float]) -> str:
    """Marker of a line's points: where they are so few that there is hardly a line."""
    return "o" if len(x) < 3 else ""


def _entropy(axes: Axes, phase: Phase, until: int | None) -> None:
    items = []
    for axis in phase.keys("entropy_"):
        x, y = phase.series(f"entropy_{axis}", until)
        if not x:
            continue
        paint = axis_colour(axis)
        axes.plot(*thin(x, y), color=paint, lw=0.8, alpha=0.3)
        axes.plot(*thin(x, smooth(y)), color=paint, lw=2.2, marker=_dot(x))
        items.append((sum(y) / len(y), axis_words(axis), paint))
    axes.set_ylim(-0.03, 1.04)
    axes.set(title="entropy: 1 undecided, 0 decided", ylabel="share of uniform")
    name_ends(axes, items)


def _cost(axes: Axes, phase: Phase, until: int | None, run: RunRecord) -> None:
    items: list[tuple[float, str, str]] = []
    seen: list[float] = [0.95, 1.05]
    for name in phase.keys("cost_"):
        x, y = phase.series(f"cost_{name}", until, changes=True)
        if not x:
            continue
        paint = colour(run.place(name))
        axes.plot(*thin(x, y), ".", color=paint, ms=4, alpha=0.35, mew=0)
        axes.plot(*thin(x, smooth(y)), color=paint, marker=_dot(x))
        items.append((smooth(y)[-1], f"{short(name)}  {y[-1]:.2f}", paint))
        seen += y
        limits = (phase.series(f"limit_{limit}_{name}", until, changes=True) for limit in LIMITS)
        for x, y in (each for each in limits if each[0]):  # of several, the line above is the one that is used most
            axes.plot(*thin(x, smooth(y)), ":", color=paint, lw=1.2)
            seen += y
    axes.axhspan(0.98, 1.02, color=PALETTE["within"], lw=0, zorder=0)
    axes.axhline(1.0, color=INK, lw=1.0, ls=(0, (4, 3)), zorder=1)
    pad = 0.06 * (max(seen) - min(seen))
    axes.set_ylim(min(seen) - pad, max(seen) + pad)
    axes.set(title="expected cost / target (band: ±2%)", ylabel="cost / target")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.2f}"))
    name_ends(axes, items)


def _schedule(axes: Axes, phase: Phase, until: int | None) -> None:
    tau, scale = phase.series("router_tau", until), phase.series("router_scale", until)
    axes.set_title("temperature τ and scale of the logits")
    axes.set_ylabel("τ", color=TAU)
    axes.tick_params(axis="y", colors=TAU)
    if tau[0]:
        axes.plot(*thin(*tau), color=TAU, marker=_dot(tau[0]))
        axes.set_ylim(-0.1 * max(tau[1]), max(tau[1]) * 1.12)
    if scale[0]:
        twin = axes.twinx()
        twin.plot(*thin(*scale), color=SCALE, marker=_dot(scale[0]))
        twin.set_ylim(-0.1 * max(scale[1]), max(scale[1]) * 1.12)
        twin.set_ylabel("scale", color=SCALE)
        twin.tick_params(axis="y", colors=SCALE)
        twin.grid(visible=False)
