# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`loss.png`: held-out loss of every member over the tokens of all phases."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .drawing import (
    WIDTH,
    Drawing,
    bigram_line,
    colour,
    counts,
    marker,
    millions,
    name_ends,
    new_figure,
    rims,
    settle,
    short,
)
from .palette import MUTED, PALETTE, PAPER
from .run_record import MOST_NAMES, PHASES, Phase, RunRecord, number

BANDS = {name: PALETTE[f"band{number % 4}"] for number, name in enumerate(PHASES)}
#: a phase takes at least this share of the picture, however few its tokens: stages are where it happens
LEAST = 0.27
#: air between two phases
GAP = 0.012


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where no held-out loss was written."""
    phases = [p for p in run.phases if p.heldout]
    if not phases:
        return None
    figure = new_figure(WIDTH, 4.6)
    axes = figure.add_subplot()
    edges = _edges(phases)
    points: dict[str, list[tuple[float, float]]] = {}
    late: list[float] = []  # of the second half of each phase
    for phase, left, scale in _spans(phases, edges):
        right = left + scale * max(phase.tokens, 1)
        axes.axvspan(left, right, color=BANDS[phase.name], lw=0, zorder=0)
        _band_label(axes, phase, (left + right) / 2)
        for name, (x, y) in _losses(phase).items():
            place = run.place(name)
            at = [left + scale * t for t in x]
            axes.plot(at, y, color=colour(place), zorder=4 - 0.01 * (place or 0))
            points.setdefault(name, []).extend(zip(at, y, strict=True))
            late += [v for t, v in zip(x, y, strict=True) if t >= x[-1] / 2]
    if not points:
        return None
    axes.set_xlim(edges[0], edges[-1])
    values = [y for line in points.values() for _, y in line]
    said = _limits(axes, values, late, run)
    _freeze_mark(axes, run, phases, edges)
    ends = {name: line[-1] for name, line in points.items()}
    last = max(x for x, _ in ends.values())
    name_ends(axes, ((y, f"{short(n)}  {y:.2f}", colour(run.place(n))) for n, (x, y) in ends.items() if x >= last))
    ticks = [(a + b * s, t) for p, a, b in _spans(phases, edges) for s, t in _ticks(p)]
    axes.set_xticks([t[0] for t in ticks], [t[1] for t in ticks])
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlabel("training tokens (each phase has its own scale)")
    axes.set_ylabel("held-out loss, nats per token")
    settle(figure)  # now marks can be kept off each other
    _marks(axes, points, run)
    said.append("Each phase measures its own sequence length, so levels shift between them.")
    said.append("In the stages, all members are trained together in one set of weights.")
    return Drawing(figure, "Held-out loss through the phases", said[0], " ".join(said[1:]))


def _marks(axes: Axes, points: dict[str, list[tuple[float, float]]], run: RunRecord) -> None:
    """A mark for every value: hollow at the upper edge for one above it; larger where a larger member's covers it."""
    top = axes.get_ylim()[1]
    names = sorted(points, key=lambda name: run.place(name) or 0)
    shown = [[(x, min(y, top)) for x, y in points[name]] for name in names]
    for name, at, sizes in zip(names, shown, rims(axes, shown, [4.5] * len(names)), strict=True):
        place, paint = run.place(name), colour(run.place(name))
        above = [y > top for _, y in points[name]]
        axes.scatter(
            *zip(*at, strict=True), s=sizes**2, marker=marker(place), zorder=5 - 0.01 * (place or 0), clip_on=False,
            linewidths=[1.2 if out else 0.7 for out in above], facecolors=[PAPER if out else paint for out in above],
            edgecolors=[paint if out else PAPER for out in above],
        )  # fmt: skip


def _band_label(axes: Axes, phase: Phase, middle: float) -> None:
    axes.annotate(f"{phase.label} · {millions(phase.tokens)} tokens", (middle, 1.0), xytext=(0, 5), ha="center",
                  textcoords="offset points", va="bottom", color=MUTED, fontsize=10,
                  xycoords=axes.get_xaxis_transform())  # fmt: skip


def _losses(phase: Phase) -> dict[str, tuple[list[float], list[float]]]:
    """Member -> tokens and losses; a stock model calls itself "parent"."""
    out: dict[str, tuple[list[float], list[float]]] = {}
    for line in phase.heldout:
        for name, raw in line["losses"].items():
            value = number(raw)
            if value is not None:
                if name not in out and len(out) == MOST_NAMES:
                    continue
                x, y = out.setdefault(name, ([], []))
                x.append(line["tokens"])
                y.append(value)
    return out


def _edges(phases: list[Phase]) -> list[float]:
    share = np.array([max(p.tokens, 1) for p in phases], dtype=float)
    least, share = min(LEAST, 1 / len(phases)), share / share.sum()
    small = share < least
    share = np.where(small, least, share * (1 - least * small.sum()) / max(share[~small].sum(), 1e-9))
    return [0.0, *np.cumsum(share)]


def _spans(phases: list[Phase], edges: list[float]) -> list[tuple[Phase, float, float]]:
    lefts = [edges[k] + GAP * (k > 0) for k in range(len(phases))]
    return [(p, a, (edges[k + 1] - a) / max(p.tokens, 1)) for k, (p, a) in enumerate(zip(phases, lefts, strict=True))]


def _ticks(phase: Phase) -> list[tuple[float, str]]:
    """Where a phase's tokens are written, and how."""
    places = MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(0, max(phase.tokens, 1))
    tell = counts(phase.tokens)
    shown = [t for t in places if (t > 0 or not phase.start) and t <= phase.tokens * 0.97]
    return [(t, f"+{tell(t, None)}" if phase.start else tell(t, None)) for t in shown]


def _limits(axes: Axes, values: list[float], late: list[float], run: RunRecord) -> list[str]:
    """Show where lines still differ once they have come down; tells what lies above."""
    low, high, highest = min(values), max(late), max(values)
    if highest - low > 3 * (high - low) > 0:
        highest = 2 * high - low
    bigram = run.results.bigram_loss if run.results else None
    said: list[str] = []
    if bigram is not None and abs(bigram - low) > highest - low:  # it would squeeze the lines
        said = [f"A bigram model's {bigram:.2f} is outside."]
    elif bigram is not None:
        low = min(low, bigram)
        bigram_line(axes, bigram)
    pad = highest - low + 1e-3
    axes.set_ylim(low - 0.06 * pad, highest + 0.04 * pad)
    out = [v for v in values if v > axes.get_ylim()[1]]
    if out:
        said.insert(0, f"Hollow marks at the upper edge: {len(out)} higher losses, up to {max(out):.2f}.")
    return said


def _freeze_mark(axes: Axes, run: RunRecord, phases: list[Phase], edges: list[float]) -> None:
    step = run.shapes.step
    for phase, left, scale in _spans(phases, edges):
        if phase is not run.shaping or step is None:
            continue
        tokens = next((line["tokens"] for line in phase.steps if line["step"] >= step), None)
        if tokens is not None:
            side = "left" if tokens <= 0.5 * phase.tokens else "right"
            axes.axvline(left + scale * tokens, color=MUTED, lw=1.0, ls=":", zorder=3)
            axes.annotate(
                "shapes frozen", (left + scale * tokens, 0.975), xycoords=axes.get_xaxis_transform(), ha=side,
                va="top", xytext=(5 if side == "left" else -5, 0), textcoords="offset points", fontsize=10,
                color=MUTED,
            )  # fmt: skip
