# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`importance.png`: how important the ranking found every channel, head and layer of the parent."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from ..family import ATTENTION_HEADS, FFN, HIDDEN, MAMBA_HEAD_DIM, MAMBA_HEADS, SYMBOL
from ..ranking import Ranking
from .load import Run
from .style import AXES, INK, KINDS, MUTED, SHARE, colour, halo, headline, new_figure, powers, short


def draw(run: Run) -> Figure | None:
    """Draw it; None without a ranking that measured anything."""
    ranking = run.ranking
    if ranking is None or not any(np.any(np.asarray(s) > 0) for s in ranking.scores.values()):
        return None
    figure = new_figure(9.4, 7.6)
    grid = figure.subplots(3, 2)
    _hidden(grid[0, 0], ranking, run)
    _ffn(grid[0, 1], ranking)
    _heat(grid[1, 0], ranking, MAMBA_HEADS, "Mamba heads", "head, most important first")
    _heat(grid[1, 1], ranking, MAMBA_HEAD_DIM, "Mamba head channels", "channel, most important first")
    _heat(grid[2, 0], ranking, ATTENTION_HEADS, "attention heads", "query head, most important first")
    _depth(grid[2, 1], ranking)
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)  # pyright: ignore
    headline(
        figure,
        "What matters in the parent",
        "Measured on training text before any shape is chosen. Heads and channels: share of the layer's best.",
    )
    return figure


def _of(ranking: Ranking, axis: str) -> list[tuple[int, np.ndarray]]:
    """(layer, scores from the best down) of an axis that lies in layers."""
    found = [(int(n.rpartition(".")[2]), s) for n, s in ranking.scores.items() if n.startswith(f"{axis}.")]
    return [(i, np.sort(np.asarray(s, dtype=float))[::-1]) for i, s in sorted(found, key=lambda pair: pair[0])]


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


def _hidden(axes: Axes, ranking: Ranking, run: Run) -> None:
    scores = np.sort(np.asarray(ranking.scores.get(HIDDEN, []), dtype=float))[::-1]
    if not len(scores):
        return _empty(axes, "hidden channels")
    x = np.arange(1, len(scores) + 1)
    axes.fill_between(x, scores, color="#dbe4ec", lw=0, step="mid")
    axes.step(x, scores, where="mid", color=AXES[HIDDEN], lw=1.6)
    axes.set_xlim(0.5, len(scores) + 0.5)
    _log(axes, scores)
    if axes.get_yscale() == "linear":
        axes.set_ylim(0, None)
    widths: dict[int, list[tuple[str, str]]] = {}
    for i, (name, subnet) in enumerate(run.subnets.items()):
        if subnet.hidden < len(scores):
            widths.setdefault(subnet.hidden, []).append((name, colour(i)))
    for row, (width, who) in enumerate(widths.items()):
        axes.axvline(width + 0.5, color=who[0][1], lw=1.4)
        axes.annotate(", ".join(short(n) for n, _ in who[:4]), (width + 0.5, 0.95 - 0.13 * row), xytext=(-4, 0),
                      ha="right", va="top", path_effects=halo(), zorder=9,
                      textcoords="offset points", xycoords=axes.get_xaxis_transform(), color=who[0][1],
                      fontsize=9.5, fontweight="bold")  # fmt: skip
    axes.set(title="hidden channels", xlabel="channel, most important first", ylabel="importance")
    return None


def _ffn(axes: Axes, ranking: Ranking) -> None:
    layers = _of(ranking, FFN)
    if not layers:
        return _empty(axes, "FFN neurons")
    for x, (_, scores) in enumerate(layers):
        low, first, middle, third, high = np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.plot([x, x], [low, high], color=AXES[FFN], lw=1.6)
        axes.plot([x, x], [first, third], color=AXES[FFN], lw=min(9.0, 120 / len(layers)), solid_capstyle="butt")
        axes.plot(x, middle, "o", color="white", mec=INK, mew=1.3, ms=5.5 if len(layers) < 13 else 3, zorder=5)
    _log(axes, np.concatenate([np.quantile(s, [0.05, 0.95]) for _, s in layers]))
    step = -(-len(layers) // 12)
    axes.set_xticks(range(len(layers))[::step], [f"{i}" for i, _ in layers][::step])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set(title="FFN neurons", xlabel="MLP layer: 5, 25, 50, 75 and 95% of its neurons", ylabel="importance")
    return None


def _heat(axes: Axes, ranking: Ranking, axis: str, title: str, words: str) -> None:
    layers = _of(ranking, axis)
    if not layers:
        return _empty(axes, title)
    table = np.stack([s / s[0] if s[0] > 0 else s for _, s in layers])
    axes.imshow(table, cmap=SHARE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    step = -(-len(layers) // 8)
    axes.set_yticks(range(len(layers))[::step], [f"{i}" for i, _ in layers][::step])
    axes.set_xticks(*_ranks(table.shape[1]))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    inset = axes.inset_axes((0.68, 1.06, 0.22, 0.055))
    inset.imshow(np.linspace(0, 1, 64)[None], cmap=SHARE, aspect="auto")
    inset.set_axis_off()
    inset.set_in_layout(False)
    for x, text, side in ((0.66, "0", "right"), (0.92, "100%", "left")):
        label = axes.text(x, 1.087, text, transform=axes.transAxes, ha=side, va="center", fontsize=8.5, color=MUTED)
        label.set_in_layout(False)
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
        paint = KINDS[types[layer]]
        if score is None:
            axes.bar(x, max(values), 0.75, bottom=0, color="white", edgecolor=paint, hatch="///", lw=1.0)
        else:
            axes.bar(x, max(score, floor), 0.75, color=paint)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(powers())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(floor, max(values) * 2)
    many = len(types) > 24
    labels = [f"{layer}" if many else f"{SYMBOL[types[layer]]}\n{layer}" for layer in ranking.depth]
    step = -(-len(types) // 24)
    axes.set_xticks(range(len(types))[::step], labels[::step], fontsize=9 if not many else 7.5)
    axes.grid(visible=False, axis="x")
    what = "logit change (MSE)" if ranking.options.depth == "mse" else "1 − cosine"
    axes.set(title="depth", xlabel="layers, first to be dropped at the left", ylabel=what)
    used = [k for k in KINDS if k in types]
    words = {"mamba": "Mamba", "mlp": "MLP", "attention": "attention"}
    axes.legend(handles=[Patch(color=KINDS[k], label=words[k]) for k in used], loc="upper left", fontsize=9,
                handlelength=1.0, handletextpad=0.5)  # fmt: skip
    return None
