# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`latency.png`: quality against milliseconds, by a table that is given or that a budget was limited with."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter, MaxNLocator

from nemo_elastic.core.latency import DECODE
from nemo_elastic.core.limits import LATENCY
from nemo_elastic.core.member import limits_of
from nemo_elastic.errors import ElasticError

from .drawing import WIDTH, Drawing, colour, name_ends, new_figure, rims, settle, short
from .palette import PALETTE
from .run_record import RunRecord


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where there is no table and no limit in milliseconds, or less than two members have a loss."""
    limits = (x.value for m in run.family or () for x in limits_of(m) if x.kind is LATENCY)
    asked = {"table": run.latency} if run.latency is not None else next(limits, None)
    losses = {m.name: m.loss for m in (run.results.members if run.results else ()) if m.loss is not None}
    if asked is None or run.family is None:
        return None
    known = [m for m in run.family if m.name in losses]
    try:
        points = [(m.name, LATENCY.cost(run.family.parent, m.subnet, asked), losses[m.name]) for m in known]
    except ElasticError:  # a table of another parent, or of fewer widths
        if run.latency is not None:
            raise
        return None
    if len(points) < 2:
        return None
    table, phase = asked["table"], asked.get("of", DECODE)
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    times, heights = [x for _, x, _ in points], [y for _, _, y in points]
    axes.plot(times, heights, color=PALETTE["path"], lw=2.2, zorder=3)
    axes.margins(0.08, 0.15)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"milliseconds of the member ({phase})")
    axes.set_ylabel("held-out loss, nats per token")
    name_ends(
        axes,
        ((y, f"{short(name)}  {LATENCY.words(x)}, {y:.3f}", colour(run.place(name))) for name, x, y in points),
    )
    settle(figure)  # now the plot is where it stays
    sizes = rims(axes, [[(x, y)] for _, x, y in points], [12] * len(points))
    for k, ((name, x, y), (size,)) in enumerate(zip(points, sizes, strict=True)):
        axes.plot(x, y, "o", ms=size, color=colour(run.place(name)), mec="white", mew=1.6, zorder=5 - 0.001 * k)
    return Drawing(figure, "Quality by milliseconds", str(table), "Each member at what the table gives it.")
