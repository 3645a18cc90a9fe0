# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`family.png`: quality against parameters; what sorting gives for nothing, and what the joint training adds."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .load import Run
from .result import MemberResult
from .style import INK, MUTED, colour, counts, halo, headline, millions, new_figure, short, spread

GREY = "#8c96a3"


def draw(run: Run) -> Figure | None:
    """Draw it; None where no member has a size and a loss."""
    members = [m for m in (run.results.members if run.results else ()) if m.parameters and m.loss is not None]
    if not members:
        return None
    figure = new_figure(9.4, 5.4)
    axes = figure.add_subplot()
    _limits(axes, members, run)
    _references(axes, run)
    at = [(float(m.parameters or 0), float(m.loss or 0)) for m in members]
    trained = at[1:] if _before_training(members) else at
    axes.plot([x for x, _ in trained], [y for _, y in trained], color="#b9c6d3", lw=2.2, zorder=3)
    for i, m in enumerate(members):
        if i and not _is_whole(m, members[0]):
            _journey(axes, m, colour(i))
        axes.plot(*at[i], "o", ms=13 if i else 14, color=colour(i), mec="white", mew=1.6, zorder=7)
        _name(axes, m, i, members[0])
    axes.xaxis.set_major_formatter(counts(members[0].parameters or 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("parameters of the member")
    axes.set_ylabel("held-out loss, nats per token  (lower is better)")
    _legend(axes, members)
    headline(figure, _title(members), _subtitle(members))
    return figure


def _title(members: list[MemberResult]) -> str:
    models = len(members) - _before_training(members)
    if models < 2:
        return f"The parent: {millions(members[0].parameters or 0)} parameters"
    return f"One training run, {models} models: cut out of one set of weights as they are"


def _before_training(members: list[MemberResult]) -> bool:
    """The first row is the parent as it was, beside the whole member that it became."""
    return len(members) > 1 and _is_whole(members[1], members[0])


def _subtitle(members: list[MemberResult]) -> str:
    known = [m.recovered for m in members[1:] if m.recovered is not None]
    if not known or min(known) <= 0:
        return ""
    low, high = min(known), max(known)
    share = f"{low:.0%}" if round(low, 2) == round(high, 2) else f"{low:.0%} to {high:.0%}"
    return f"Elastic training closes {share} of the gap that cutting opens between a member and its parent."


def _limits(axes: Axes, members: list[MemberResult], run: Run) -> None:
    losses = [v for m in members for v in (m.loss, m.untrained_loss, m.unsorted_loss) if v is not None]
    if run.results and run.results.bigram_loss:
        losses.append(run.results.bigram_loss)
    sizes = [m.parameters or 0 for m in members]
    width = (max(sizes) - min(sizes)) or max(sizes)
    height = (max(losses) - min(losses)) or 1.0
    axes.set_xlim(min(sizes) - 0.16 * width, max(sizes) + 0.14 * width)
    axes.set_ylim(min(losses) - 0.20 * height, max(losses) + 0.36 * height)  # the legend stands above every loss


def _references(axes: Axes, run: Run) -> None:
    bigram = run.results.bigram_loss if run.results else None
    if bigram:
        axes.axhline(bigram, color=INK, lw=1.1, ls=(0, (4, 3)), zorder=1)
        axes.annotate(f"bigram model {bigram:.2f}", (0.42, bigram), xycoords=axes.get_yaxis_transform(), xytext=(0, 4),
                      textcoords="offset points", ha="center", fontsize=9.5, color=INK)  # fmt: skip


def _journey(axes: Axes, m: MemberResult, paint: str) -> None:
    """From the unsorted cut over the sorted cut to the trained member."""
    x = m.parameters or 0
    if m.unsorted_loss is not None:
        axes.plot(x, m.unsorted_loss, "x", ms=8, mew=2.2, color=GREY, zorder=6)
        if m.untrained_loss is not None:
            _arrow(axes, x, m.unsorted_loss, m.untrained_loss, GREY, 1.4)
    if m.untrained_loss is not None and m.loss is not None:
        axes.plot(x, m.untrained_loss, "o", ms=9, color="white", mec=paint, mew=2.0, zorder=6)
        _arrow(axes, x, m.untrained_loss, m.loss, paint, 3.2)
    texts = [
        (value, text, paint if which else GREY)
        for which, (value, text) in enumerate(
            ((m.unsorted_loss, f"{m.unsorted_loss or 0:.2f}"), (m.untrained_loss, f"{m.untrained_loss or 0:.2f}"))
        )
        if value is not None
    ]
    low, high = axes.get_ylim()
    for (_, text, ink), y in zip(texts, spread([t[0] for t in texts], (high - low) * 0.05), strict=True):
        axes.annotate(text, (x, y), xytext=(-12, 0), textcoords="offset points", ha="right", va="center", color=ink)
    if m.recovered is not None and m.untrained_loss is not None and m.loss is not None:
        middle = m.loss + 0.56 * (m.untrained_loss - m.loss)
        axes.annotate(f"{m.recovered:.0%} of the\ngap closed", (x, middle), xytext=(10, 0), textcoords="offset points",
                      va="center", color=paint, fontweight="bold", fontsize=10.5, linespacing=1.25,
                      path_effects=halo())  # fmt: skip


def _arrow(axes: Axes, x: float, start: float, end: float, paint: str, width: float) -> None:
    axes.annotate(
        "", (x, end), (x, start), zorder=4,
        arrowprops={"arrowstyle": "-|>,head_length=0.5,head_width=0.25", "color": paint, "lw": width, "shrinkA": 6,
                    "shrinkB": 8, "mutation_scale": 12},
    )  # fmt: skip


def _name(axes: Axes, m: MemberResult, i: int, parent: MemberResult) -> None:
    more = f" (+{m.loss - parent.loss:.2f})" if i and m.loss is not None and parent.loss is not None else ""
    first = short(m.name) if i or m.name == "parent" else f"{short(m.name)} parent"
    # the whole member sits where the parent does: its name goes above, the parent's below
    name, figure, side = (30, 14, "bottom") if i and _is_whole(m, parent) else (-13, -29, "top")
    axes.annotate(first, (m.parameters or 0, m.loss or 0), xytext=(0, name), textcoords="offset points", ha="center",
                  va=side, fontweight="bold", color=colour(i), fontsize=12, path_effects=halo())  # fmt: skip
    axes.annotate(f"{m.loss:.2f}{more}", (m.parameters or 0, m.loss or 0), xytext=(0, figure),
                  textcoords="offset points", ha="center", va=side, color=MUTED, fontsize=10)  # fmt: skip


def _is_whole(m: MemberResult, parent: MemberResult) -> bool:
    """A member of the parent's own size: nothing was cut, only trained on."""
    return m.parameters == parent.parameters


def _legend(axes: Axes, members: list[MemberResult]) -> None:
    rows = []
    if any(m.unsorted_loss is not None for m in members[1:]):
        rows.append(
            Line2D([], [], ls="", marker="x", ms=8, mew=2.2, color=GREY, label="cut from the parent as it was stored")
        )
    if any(m.untrained_loss is not None for m in members[1:]):
        rows.append(Line2D([], [], ls="", marker="o", ms=8, mfc="white", mew=2.0, mec=INK,
                           label="cut after sorting by importance"))  # fmt: skip
    rows.append(Line2D([], [], ls="", marker="o", ms=11, color=INK, mec="white", label="after elastic training"))
    axes.legend(handles=rows, loc="upper right", fontsize=10.5, handletextpad=0.4, labelspacing=0.6)
