# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`latency.png`: quality against milliseconds, by the table that a budget was limited with."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter, MaxNLocator

from nemo_elastic.core.latency import DECODE, LatencyTable
from nemo_elastic.core.limits import LATENCY
from nemo_elastic.core.member import limits_of
from nemo_elastic.errors import ElasticError

from .drawing import Drawing, Sheet, colour, new_figure, settle, short
from .labels import Label, Labels
from .palette import LIGHT, MUTED
from .run_record import RunRecord


def draw(run: RunRecord, sheet: Sheet) -> Drawing | None:
    """Draw it; None where no budget has a limit in milliseconds, or less than two members have a loss."""
    limit = limit_of(run)
    losses = {m.name: m.loss for m in (run.results.members if run.results else ()) if m.loss is not None}
    if limit is None or run.family is None:
        return None
    table, phase = limit
    parent = run.family.parent
    known = [m for m in run.family if m.name in losses]
    try:
        points = [(m.name, table.milliseconds(parent, m.subnet, phase), losses[m.name]) for m in known]
    except ElasticError:  # a table of another parent, or of fewer widths
        return None
    if len(points) < 2:
        return None
    figure = new_figure(sheet.width, 4.2)
    axes = figure.add_subplot()
    times, heights = [x for _, x, _ in points], [y for _, _, y in points]
    axes.plot(times, heights, color=LIGHT["path"], lw=2.2, zorder=3)
    width, height = (max(v) - min(v) or max(v) for v in (times, heights))
    axes.set_xlim(min(times) - 0.18 * width, max(times) + 0.18 * width)
    axes.set_ylim(min(heights) - 0.4 * height, max(heights) + 0.25 * height)
    axes.xaxis.set_major_locator(MaxNLocator(4 if sheet.narrow else 6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"milliseconds of the member ({phase})")
    axes.set_ylabel("held-out loss, nats per token")
    settle(figure)
    labels = Labels(axes)
    for name, x, y in points:
        axes.plot(x, y, "o", ms=12, color=colour(run.place(name)), mec="white", mew=1.6, zorder=5)
        labels.keep_off((x, y), (x, y), 8)
    for name, x, y in points:
        lines = [
            (short(name, sheet), {"color": colour(run.place(name)), "fontweight": "bold", "fontsize": 12}),
            (f"{LATENCY.words(x)}, {y:.2f}", {"color": MUTED, "fontsize": 10}),
        ]
        labels.add(Label((x, y), lines, [(0, -11, "center"), (0, 27, "center")], needed=True))
    return Drawing(figure, "Quality by milliseconds", str(table), f"Each member by the table of its budgets: {table}.")


def limit_of(run: RunRecord) -> tuple[LatencyTable, str] | None:
    """The first table that a budget of the family has, and of what; None where none has one."""
    for member in run.family or ():
        for limit in limits_of(member):
            if limit.kind is LATENCY:
                return limit.value["table"], limit.value.get("of", DECODE)
    return None
