# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`family.png`: quality against parameters; what sorting gives for nothing, and what the joint training adds."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..verdicts import SHARED
from .drawing import WIDTH, Drawing, bigram_line, colour, counts, millions, name_ends, new_figure, rims, settle, short
from .palette import GREY, INK, PALETTE
from .result import MemberResult
from .run_record import RunRecord


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where no member has a size and a loss."""
    members = [m for m in (run.results.members if run.results else ()) if m.parameters and m.loss is not None]
    if not members:
        return None
    figure = new_figure(WIDTH, 4.8)
    axes = figure.add_subplot()
    has_before = _has_before(run, members)
    _limits(axes, members, run)
    at = [(float(m.parameters or 0), float(m.loss or 0)) for m in members]
    trained = at[has_before:]
    axes.plot([x for x, _ in trained], [y for _, y in trained], color=PALETTE["path"], lw=2.2, zorder=3)
    axes.xaxis.set_major_formatter(counts(members[0].parameters or 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("parameters of the member")
    axes.set_ylabel("held-out loss, nats per token  (lower is better)")
    figure.legend(handles=_marks(members), loc="outside lower left", ncols=3, handletextpad=0.4)
    if run.results and run.results.bigram_loss:
        bigram_line(axes, run.results.bigram_loss)
    paints = [colour(run.place(m.name)) for m in members]
    name_ends(axes, [(m.loss or 0, _name(m, members[0]), paint) for m, paint in zip(members, paints, strict=True)])
    settle(figure)  # now the plot is where it stays
    sizes = rims(axes, [[point] for point in at[::-1]], [13] * len(at))[::-1]
    for i, m in enumerate(members):
        if not _is_whole(m, members[0]):
            _journey(axes, m, paints[i])
        axes.plot(*at[i], "o", ms=sizes[i][0], color=paints[i], mec="white", mew=1.6, zorder=7)
    return Drawing(figure, _title(members, has_before), _subtitle(members), (
        "Held-out loss of every member: cut from the parent as it was stored, cut after sorting by importance, and "
        "after the joint training of all members."
    ))  # fmt: skip


def _title(members: list[MemberResult], has_before: bool) -> str:
    models = len(members) - has_before
    if models < 2:
        return f"The parent: {millions(members[0].parameters or 0)} parameters"
    return f"One training run, {models} models: cut out of one set of weights as they are"


def _has_before(run: RunRecord, members: list[MemberResult]) -> bool:
    """Whether the first is the parent as it was, beside the whole member that it became."""
    return run.before is not None and members[0] is run.before


def _subtitle(members: list[MemberResult]) -> str:
    known = [m.recovered for m in members[1:] if m.recovered is not None]
    if not known or min(known) <= 0:
        return ""
    low, high = min(known), max(known)
    some = any(m.recovered is None and not _is_whole(m, members[0]) for m in members[1:])
    where = f", where it is {SHARED:g} nats or more" if some else ""
    share = f"{low:.0%}" if round(low, 2) == round(high, 2) else f"{low:.0%} to {high:.0%}"
    return f"Elastic training closes {share} of the gap that cutting opens between a member and its parent{where}."


def _limits(axes: Axes, members: list[MemberResult], run: RunRecord) -> None:
    losses = [v for m in members for v in (m.loss, m.untrained_loss, m.unsorted_loss) if v is not None]
    if run.results and run.results.bigram_loss:
        losses.append(run.results.bigram_loss)
    sizes = [m.parameters or 0 for m in members]
    width = (max(sizes) - min(sizes)) or max(sizes)
    height = (max(losses) - min(losses)) or 1.0
    axes.set_xlim(min(sizes) - 0.08 * width, max(sizes) + 0.08 * width)
    axes.set_ylim(min(losses) - 0.1 * height, max(losses) + 0.1 * height)


def _journey(axes: Axes, m: MemberResult, paint: str) -> None:
    """From the unsorted cut over the sorted cut to the trained member."""
    x = m.parameters or 0
    losses = {13: m.loss, 9: m.untrained_loss, 8: m.unsorted_loss}  # by the sizes of their marks
    known = {size: v for size, v in losses.items() if v is not None}
    wide = dict(zip(known, (at[0] for at in rims(axes, [[(x, v)] for v in known.values()], list(known))), strict=True))
    if m.unsorted_loss is not None:
        axes.plot(x, m.unsorted_loss, "x", ms=wide[8], mew=2.2, color=GREY, zorder=5)
        if m.untrained_loss is not None:
            _arrow(axes, x, m.unsorted_loss, m.untrained_loss, GREY, 1.4)
    if m.untrained_loss is not None and m.loss is not None:
        axes.plot(x, m.untrained_loss, "o", ms=wide[9], color="white", mec=paint, mew=2.0, zorder=6)
        _arrow(axes, x, m.untrained_loss, m.loss, paint, 3.2)


def _arrow(axes: Axes, x: float, start: float, end: float, paint: str, width: float) -> None:
    if abs(np.diff(axes.transData.transform([(x, start), (x, end)])[:, 1])) * 72 < 22 * axes.figure.dpi:
        return  # marks that are closer have no room for it
    axes.annotate(
        "", (x, end), (x, start), zorder=4,
        arrowprops={"arrowstyle": "-|>,head_length=0.5,head_width=0.25", "color": paint, "lw": width, "shrinkA": 6,
                    "shrinkB": 8, "mutation_scale": 12},
    )  # fmt: skip


def _name(m: MemberResult, parent: MemberResult) -> str:
    """Name and loss, and how far that is from the parent's."""
    if m is parent:
        return f"{short(m.name)}{' parent' * (m.name != 'parent')}  {m.loss:.2f}"
    return f"{short(m.name)}  {m.loss:.2f} ({(m.loss or 0) - (parent.loss or 0):+.2f})"


def _is_whole(m: MemberResult, parent: MemberResult) -> bool:
    """A member of the parent's own size: nothing was cut, only trained on."""
    return m.parameters == parent.parameters


def _marks(members: list[MemberResult]) -> list[Line2D]:
    """What each mark means, for a legend."""
    rows = []
    if any(m.unsorted_loss is not None for m in members[1:]):
        rows.append(
            Line2D([], [], ls="", marker="x", ms=8, mew=2.2, color=GREY, label="cut from the parent as it was stored")
        )
    if any(m.untrained_loss is not None for m in members[1:]):
        rows.append(Line2D([], [], ls="", marker="o", ms=8, mfc="white", mew=2.0, mec=INK,
                           label="cut after sorting by importance"))  # fmt: skip
    rows.append(Line2D([], [], ls="", marker="o", ms=11, color=INK, mec="white", label="after elastic training"))
    return rows
