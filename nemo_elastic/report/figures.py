# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a run. Each function draws one, or returns None where the run has no figures for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from nemo_elastic.core.kinds.registry import DEPTH, layer_axes
from nemo_elastic.errors import printable
from nemo_elastic.ranking import Ranking
from nemo_elastic.verdicts import TIE

from .run import Phase, Run
from .style import INK, MUTED, colour, headline, marker, millions, new_figure

#: inches; the first picture of the page is read on a phone without scrolling
WIDTH, NARROW = 9.0, 5.6
#: characters of a name in a picture
LONGEST = 24
#: members in one picture
MOST = 24
#: measure of a validation -> its name, and what its curves should do
WORDS = {
    "losses": ("held-out loss", ""),
    "kl": (
        "divergence from the parent",
        "Curves of smaller members should fall. The full-size member starts as the parent, at 0, and may end a little "
        "above, because it shares its weights with the others.",
    ),
}


@dataclass(frozen=True)
class Drawing:
    """A figure with its headline.

    Attributes:
        title: the headline, for readers that cannot see the figure; words: more about the figure, for the page.
    """

    figure: Figure
    title: str
    words: str


def draw_members(run: Run) -> Drawing | None:
    """Held-out loss of each member as an untrained cut and after training."""
    measured = [(m, m.loss) for m in (run.results.members if run.results else ()) if m.loss is not None]
    if not measured or run.results is None:
        return None
    rows = measured[:MOST]
    figure = new_figure(NARROW, 1.8 + 0.5 * len(rows))
    axes = figure.add_subplot()
    before, names = run.results.before, []
    for y, (m, loss) in enumerate(rows):
        paint = colour(run.place(m.name))
        cuts = [] if before and m.parameters == before.parameters else [m.unsorted_loss, m.untrained_loss]
        for x, mark in zip(cuts, ("x", "o"), strict=False):
            if x is not None:
                axes.plot(x, y, mark, ms=8, mew=1.8, color=paint, mfc="white", zorder=4)
        start = next((x for x in reversed(cuts) if x is not None), None)
        if start is not None:
            axes.annotate("", (loss, y), (start, y), arrowprops={"arrowstyle": "->", "color": paint, "lw": 2})
        axes.plot(loss, y, "o", ms=8, color=paint, zorder=5)
        axes.annotate(
            f"{loss:.3f}", (loss, y), xytext=(0, 8), textcoords="offset points", ha="center",
            bbox={"fc": "white", "ec": "none", "pad": 0.5},
        )  # fmt: skip
        names.append(_short(m.name) + ("" if m.parameters is None else f" ({millions(m.parameters)})"))
    if before and before.loss is not None:
        axes.axvline(before.loss, color=MUTED, lw=1, ls="--", zorder=1)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("held-out loss, nats per token (lower is better)")
    handles = [
        axes.plot([], [], mark, ms=8, mew=1.8, color=INK, mfc=fill, label=label)[0]
        for mark, fill, label in (
            ("x", INK, "cut from the parent as stored"),
            ("o", "white", "cut from the sorted parent"),
            ("o", INK, "after elastic training"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return _finished(
        figure,
        "What one elastic training did for each member",
        "The dashed line is the parent before elastic training." if before else "",
        _left_out(len(measured)),
    )


def draw_training(run: Run) -> Drawing | None:
    """Divergence of every member from the parent over the tokens of each phase; its loss where that is unknown."""
    measure = "kl" if any(x.get("kl") for p in run.phases for x in p.heldout) else "losses"
    names = dict.fromkeys(n for n in (*run.names, *(n for p in run.phases for x in p.heldout for n in x["losses"])))
    measured = [n for n in names if any(p.curve(n, measure) for p in run.phases)]
    names = measured[:MOST]
    phases = [p for p in run.phases if any(p.curve(n, measure) for n in names)]
    phases = [p for p in phases if p.name != "parent"] or phases
    if not phases:
        return None
    figure = new_figure(WIDTH, 4.2)
    plots = figure.subplots(1, len(phases), sharey=True, squeeze=False)[0]
    late: list[float] = []
    for axes, phase in zip(plots, phases, strict=True):
        for name in names:
            if points := phase.curve(name, measure):
                place = run.place(name)
                x, y = zip(*points, strict=True)
                axes.plot(x, y, marker=marker(place), ms=5, color=colour(place), label=_short(name))
                late += y[1:] or y
        axes.set_title(f"{phase.label}: {millions(phase.tokens)} tokens")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: millions(v)))
        axes.set_xlabel("tokens")
        _mark_freeze(axes, run, phase)
    low = plots[0].get_ylim()[0]
    top = max(late) + 2 * (max(late) - min(late)) + TIE  # first losses may be far above all others
    above = [y for p in phases for n in names for _, y in p.curve(n, measure) if y > top]
    if above:
        plots[0].set_ylim(low, top)
    word, expected = WORDS[measure]
    plots[0].set_ylabel(f"{word}, nats per token")
    handles, labels = plots[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return _finished(
        figure,
        f"{word.capitalize()} during training",
        f"{len(above)} points lie above the picture, up to {max(above):.2f}." if above else "",
        " ".join(filter(None, (expected, _rises(names, phases, measure), _left_out(len(measured))))),
    )


def _mark_freeze(axes: Axes, run: Run, phase: Phase) -> None:
    """Where the shapes of members became final."""
    at = next((x["tokens"] for x in phase.steps if x["step"] == run.frozen_at), None) if run.frozen_at else None
    if at is not None and any("router_tau" in x for x in phase.steps):
        axes.axvline(at, color=MUTED, lw=1, ls=":")
        axes.annotate(
            "shapes final", (at, 0.98), xytext=(4, 0), textcoords="offset points", va="top", color=MUTED,
            xycoords=axes.get_xaxis_transform(), fontsize="small",
        )  # fmt: skip


def _left_out(count: int) -> str:
    return f"The picture shows {MOST} of {count} models." if count > MOST else ""


def _rises(names: Sequence[str], phases: Sequence[Phase], measure: str) -> str:
    """Members that end a phase above their first point."""
    word = WORDS[measure][0]
    out = []
    for phase in phases:
        ends = {name: [y for _, y in phase.curve(name, measure)] for name in names}
        worse = [f"{_short(n)} by {y[-1] - y[0]:.3f}" for n, y in ends.items() if y and y[-1] > y[0] + TIE]
        if worse:
            out.append(f"At the end of {phase.label} the {word} is higher than at its beginning: {', '.join(worse)}.")
    return " ".join(out)


def draw_importance(run: Run) -> Drawing | None:
    """Importance of the parent's channels, heads and layers, from the most important."""
    ranking = run.ranking
    if ranking is None or not ranking.scores:
        return None
    axes_of = [a for a in ranking.parent.axes if a != DEPTH and _scores(ranking, a)]
    figure = new_figure(WIDTH, 2.4 * (-(-(len(axes_of) + 1) // 3)))
    grid = list(figure.subplots(-(-(len(axes_of) + 1) // 3), 3, squeeze=False).flat)
    for axes, axis in zip(grid, axes_of, strict=False):
        for scores in _scores(ranking, axis):
            axes.plot(np.linspace(0, 1, len(scores)), scores / scores[0], color=INK, alpha=0.5, lw=1)
        axes.set_ylim(0, 1.05)
        axes.set_title(layer_axes()[axis][1].words if axis in layer_axes() else "residual channels")
        axes.set_xlabel("most important first", fontsize="small")
    _draw_depth(grid[len(axes_of)], ranking)
    for axes in grid[len(axes_of) + 1 :]:
        axes.set_axis_off()
    return _finished(
        figure,
        "Importance in the parent",
        "Each line is a layer, with scores relative to the layer's best.",
        "Members keep the most important parts. The score of a whole layer is the change of logits without the layer.",
    )


def _scores(ranking: Ranking, axis: str) -> list[np.ndarray]:
    """Scores in descending order for each layer with the axis; the mean over experts for expert_ffn."""
    named = [s for n, s in ranking.scores.items() if n == axis or n.startswith(f"{axis}.")]
    rows = [np.atleast_2d(np.sort(np.asarray(s, dtype=float))).mean(0)[::-1] for s in named]
    return [row for row in rows if len(row) and row[0] > 0]


def _draw_depth(axes: Axes, ranking: Ranking) -> None:
    """What the absence of each layer changes; the layer that is dropped first stands at the left."""
    kinds = {kind.name: f"C{i}" for i, kind in enumerate(ranking.parent.kinds)}
    known = [(layer, s) for layer, s in zip(ranking.depth, ranking.depth_scores, strict=True) if s]
    types = ranking.parent.types
    axes.bar(range(len(known)), [s for _, s in known], color=[kinds[types[layer]] for layer, _ in known])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([])
    axes.set_title("layers")
    axes.set_xlabel("dropped first at the left", fontsize="small")
    patches = [Patch(color=kinds[kind.name], label=kind.words) for kind in ranking.parent.kinds]
    axes.legend(handles=patches, fontsize="small")


def _finished(figure: Figure, title: str, subtitle: str = "", words: str = "") -> Drawing:
    headline(figure, title, subtitle)
    return Drawing(figure, f"{title}. {subtitle}".strip(), words)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


#: file -> what draws it, in the order of the page
FIGURES: dict[str, Callable[[Run], Drawing | None]] = {
    "members.png": draw_members,
    "training.png": draw_training,
    "importance.png": draw_importance,
}
