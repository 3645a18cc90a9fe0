# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`importance.png`: how important the ranking found every channel, head and layer of the parent."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullFormatter

from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, layer_axes

from ..ranking import Ranking
from .drawing import WIDTH, Drawing, colour, halo, level, new_figure, powers, share_scale, short
from .palette import INK, MUTED, PALETTE, SHARES, axis_colour, kind_colour
from .run_record import RunRecord

#: places of a sorted curve that are drawn
MOST_CHANNELS = 300
#: members whose width is marked there
MOST_CUTS = 6


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None without a ranking that measured anything."""
    ranking = run.ranking
    if ranking is None or not any(np.any(np.asarray(s) > 0) for s in ranking.scores.values()):
        return None
    shown = ranking.parent.axes
    rows, columns = -(-len(shown) // 2), 2
    figure = new_figure(WIDTH, 2.35 * rows)
    grid = list(figure.subplots(rows, columns).flat)
    for place, axis in zip(grid, (*(a for a in shown if a != DEPTH), DEPTH), strict=False):
        if axis == HIDDEN:
            _hidden(place, ranking, run)
        elif axis == DEPTH:
            _depth(place, ranking)
        elif axis == FFN:  # too many neurons for a row of each layer
            _ffn(place, ranking)
        else:
            _heat(place, ranking, axis, layer_axes()[axis][1].words, "most important first")
    for place in grid[len(shown) :]:
        place.set_axis_off()
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)  # pyright: ignore
    return Drawing(
        figure,
        "What matters in the parent",
        "Measured on training text before any shape is chosen. Heads and channels: share of the layer's best.",
        "Members keep what stands first.",
    )


def _of(ranking: Ranking, axis: str) -> list[tuple[int, np.ndarray]]:
    """(layer, scores from the best down) of an axis that lies in layers; where each expert has its own, their mean."""
    scored = [(int(n.rpartition(".")[2]), s) for n, s in ranking.scores.items() if n.startswith(f"{axis}.")]
    rows = [(i, np.atleast_2d(np.sort(np.asarray(s, dtype=float))).mean(0)) for i, s in scored]
    return [(i, scores[::-1]) for i, scores in sorted(rows, key=lambda pair: pair[0])]


def _empty(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.text(0.5, 0.5, "none in this parent", ha="center", va="center", color=MUTED, transform=axes.transAxes)
    axes.set_axis_off()


def _log(axes: Axes, values: np.ndarray) -> None:
    positive = values[values > 0]
    if len(positive) and positive.max() / positive.min() > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(powers())
        axes.yaxis.set_minor_formatter(NullFormatter())


def _hidden(axes: Axes, ranking: Ranking, run: RunRecord) -> None:
    scores = np.sort(np.asarray(ranking.scores.get(HIDDEN, []), dtype=float))[::-1]
    if not len(scores):
        return _empty(axes, "hidden channels")
    x = np.unique(np.linspace(1, len(scores), min(len(scores), MOST_CHANNELS)).round())
    y = scores[x.astype(int) - 1]
    axes.fill_between(x, y, color=PALETTE["area"], lw=0, step="mid")
    axes.step(x, y, where="mid", color=axis_colour(HIDDEN), lw=1.6)
    axes.set_xlim(0.5, len(scores) + 0.5)
    _log(axes, scores)
    if axes.get_yscale() == "linear":
        axes.set_ylim(0, None)
    cut = [(name, subnet.hidden) for name, subnet in run.subnets.items() if subnet.hidden < len(scores)]
    for row, (name, width) in enumerate(cut[:MOST_CUTS]):
        paint, alone = colour(run.place(name)), sum(width == other for _, other in cut) == 1
        axes.axvline(width + 0.5, color=paint if alone else MUTED, lw=1.4)
        axes.annotate(short(name), (width + 0.5, 0.96 - 0.13 * row), xytext=(-4, 0), ha="right", va="top",
                      path_effects=halo(), zorder=9, textcoords="offset points",
                      xycoords=axes.get_xaxis_transform(), color=paint, fontsize=10, fontweight="bold")  # fmt: skip
    axes.set(title="hidden channels", xlabel="channel, most important first", ylabel="importance")
    return None


def _ffn(axes: Axes, ranking: Ranking) -> None:
    layers = _of(ranking, FFN)
    if not layers:
        return _empty(axes, "FFN neurons")
    paint = axis_colour(FFN)
    for x, (_, scores) in enumerate(layers):
        low, first, middle, third, high = np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.plot([x, x], [low, high], color=paint, lw=1.6)
        axes.plot([x, x], [first, third], color=paint, lw=min(9.0, 120 / len(layers)), solid_capstyle="butt")
        axes.plot(x, middle, "o", color="white", mec=INK, mew=1.3, ms=5.5 if len(layers) < 13 else 3, zorder=5)
    _log(axes, np.concatenate([np.quantile(s, [0.05, 0.95]) for _, s in layers]))
    step = -(-len(layers) // 12)
    axes.set_xticks(range(len(layers))[::step], [f"{i}" for i, _ in layers][::step])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set(title="FFN neurons", xlabel="MLP layer: 5, 25, 50, 75, 95% of its neurons", ylabel="importance")
    return None


def _heat(axes: Axes, ranking: Ranking, axis: str, title: str, words: str) -> None:
    layers = _of(ranking, axis)
    if not layers:
        return _empty(axes, title)
    width = max(len(scores) for _, scores in layers)
    for row, (_, scores) in enumerate(layers):
        levels = [level(share) for share in (scores / scores[0] if scores[0] > 0 else scores)]
        for which in sorted(set(levels)):  # sorted scores: channels of a level stand side by side
            left = levels.index(which) - 0.5
            axes.add_patch(Rectangle((left, row - 0.5), levels.count(which), 1, color=SHARES[which], lw=0.5))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(len(layers) - 0.5, -0.5))
    step = -(-len(layers) // 8)
    axes.set_yticks(range(len(layers))[::step], [f"{i}" for i, _ in layers][::step])
    axes.set_xticks(*_ranks(width))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    share_scale(axes, 0.055)
    axes.set_title(title, y=1.0)  # a fixed place: it would make room for the scale
    axes.set(xlabel=words, ylabel="layer")
    return None


def _ranks(n: int) -> tuple[list[int], list[str]]:
    step = max(1, -(-n // 8))
    places = [0, *range(step - 1 if step > 1 else 1, n, step)]
    places = sorted(set(places))
    return places, [str(p + 1) for p in places]


def _depth(axes: Axes, ranking: Ranking) -> None:
    types = ranking.parent.types
    values = [s for s in ranking.depth_scores if s is not None and s > 0]
    if not values:
        return _empty(axes, "depth")
    log = max(values) / min(values) > 20
    floor = min(values) / 3 if log else 0.0
    for x, (layer, score) in enumerate(zip(ranking.depth, ranking.depth_scores, strict=True)):
        paint = kind_colour(types[layer])
        if score is None:
            axes.bar(x, max(values), 0.75, bottom=0, color="white", edgecolor=paint, hatch="///", lw=1.0)
        else:
            axes.bar(x, max(score, floor), 0.75, color=paint)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(powers())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(floor, max(values) * 2)
    many = len(types) > 16
    labels = [f"{layer}" if many else f"{ranking.parent.pattern[layer]}\n{layer}" for layer in ranking.depth]
    step = -(-len(types) // 16)
    axes.set_xticks(range(len(types))[::step], labels[::step], fontsize=10)
    axes.grid(visible=False, axis="x")
    what = "logit change (MSE)" if ranking.options.depth == "mse" else "1 − cosine"
    axes.set(title="depth", xlabel="layers, first to be dropped at the left", ylabel=what)
    patches = [Patch(color=kind_colour(kind.name), label=kind.words) for kind in ranking.parent.kinds]
    axes.legend(handles=patches, loc="upper left", handlelength=1.0, handletextpad=0.5)
    return None
