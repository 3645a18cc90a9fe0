# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`candidates.png`: the loss of every candidate at each comparison, down to the one that stayed."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from .candidates import Track, comparisons, tracks
from .drawing import WIDTH, Drawing, new_figure, short
from .palette import MEMBERS
from .run_record import RunRecord

#: budgets that the picture has room for
MOST_PANELS = 6
#: above this factor between losses an axis has ticks at powers of ten and between
WIDE = 6


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where no candidates were compared."""
    rounds, every = comparisons(run), tracks(run)
    panels = [(name, own) for name, own in every.items() if any(t.losses for t in own)][:MOST_PANELS]
    if not rounds or not panels or run.shaping is None:
        return None
    figure = new_figure(WIDTH, 0.7 + 2.0 * len(panels))
    plots = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, own) in zip(plots, panels, strict=True):
        _panel(axes, own)
        axes.set_title(short(name))
    plots[-1].set_xticks([0, *rounds], ["untrained", *map(str, rounds)])
    plots[-1].set_xlabel(f"step of {run.shaping.label}")
    return Drawing(
        figure,
        "Which candidates stayed",
        "Candidates of a budget train in turn. At each comparison the best that nest stay; lines of others end.",
        _claim([own for own in every.values() if any(t.stays for t in own)]),
    )


def _claim(settled: list[list[Track]]) -> str:
    """How often training agreed with the search."""
    first = sum(own[0].stays for own in settled)
    words = "Labels are residual width × layers. Untrained losses are the search's, on other text."
    return f"{words} The search's first choice stayed for {first} of {len(settled)} budgets." if settled else words


def _panel(axes: Axes, own: list[Track]) -> None:
    lines = []
    for track in sorted(own, key=lambda t: (not t.stays, -max(t.losses, default=0), t.number)):
        points = [*([] if track.untrained is None else [(0, track.untrained)]), *track.losses.items()]
        x, y, paint = [p[0] for p in points], [p[1] for p in points], MEMBERS[track.number % len(MEMBERS)]
        width, label = 3.4 if track.stays else 1.5, f"{track.label}  {track.outcome}"
        lines += axes.plot(x, y, color=paint, lw=width, marker="o", ms=4, zorder=4 + track.stays, label=label)
        if track.went is not None:
            axes.plot(x[-1:], y[-1:], "x", color=paint, ms=9, mew=2, zorder=6)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > WIDE * low else MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.minorticks_off()
    axes.set_ylabel("KL, nats per token")
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4, labelcolor="linecolor")
