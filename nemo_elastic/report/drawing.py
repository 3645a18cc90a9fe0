# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How every picture looks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from ..errors import printable
from .palette import INK, MARKERS, MEMBERS, MUTED, PALETTE, PAPER, PARENT, SHARES

VALUES: dict[Any, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": PALETTE["edge"],
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "hatch.color": PALETTE["hatch"],
    "hatch.linewidth": 0.7,
    "text.parse_math": False,  # names may hold a dollar sign
    "path.simplify_threshold": 0.3,
}
DPI = 180
#: share of a picture that stays free at each edge
MARGIN = 0.008
#: inches of a headline
HEADROOM = 0.62
#: inches that a picture is wide, and characters of a name in it
WIDTH, LONGEST = 9.4, 24
#: points of a line, which a picture has no more pixels for
MOST_POINTS = 400
#: points by which a mark is wider than one that lies on it, and of the widest
RIM, WIDEST = 3.5, 32.0
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Drawing:
    """A picture without its headline.

    Attributes:
        figure: What is drawn.
        title: What it shows; words: a line under the title; more: what only the page has room for.
    """

    figure: Figure
    title: str
    words: str = ""
    more: str = ""


@contextmanager
def house() -> Iterator[None]:
    """Draw inside this block: the house's values, whatever the user's matplotlibrc says, and no word of its own."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="matplotlib|nemo_elastic.report")  # glyphs that the font has not
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(VALUES)
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure on the Agg canvas, without pyplot and its global state. Inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> None:
    """Lay a figure out for good, so that what is drawn after that stays where it is."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(MARGIN, MARGIN, 1 - 2 * MARGIN, 1 - 2 * MARGIN))  # pyright: ignore
        engine.execute(figure)
        figure.set_layout_engine(None)
        for axes in figure.axes:  # the solver's last digits are not the same each time
            left, bottom, wide, high = (round(float(v), 6) for v in axes.get_position(original=True).bounds)
            axes.set_position((left, bottom, wide, high))


def raise_edge(figure: Figure, inches: float) -> None:
    """Make a settled figure higher; everything stays as far from its lower edge as it was."""
    width, height = figure.get_size_inches()
    share = height / (height + inches)
    for axes in figure.axes:
        left, bottom, wide, high = axes.get_position().bounds
        axes.set_position((left, bottom * share, wide, high * share))
    figure.set_size_inches(width, height + inches)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG whose bytes depend on the picture alone."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def headline(figure: Figure, title: str, subtitle: str = "") -> None:
    """Title and an explaining line under it, at the left of the figure, which has room for them if it is settled."""
    width, height = figure.get_size_inches()
    engine = figure.get_layout_engine()
    if engine is not None:
        room = HEADROOM if subtitle else 0.36
        engine.set(rect=(MARGIN, MARGIN, 1 - 2 * MARGIN, 1 - room / height - MARGIN))  # pyright: ignore
    figure.text(0.12 / width, 1 - 0.10 / height, title, va="top", fontsize=14, fontweight="bold", color=INK)
    if subtitle:
        figure.text(0.12 / width, 1 - 0.38 / height, subtitle, va="top", fontsize=10, color=MUTED)


def colour(place: int | None) -> str:
    """Colour of a member by its place, see `run_record.RunRecord.place`; None is the parent as it was."""
    return PARENT if place is None else MEMBERS[place % len(MEMBERS)]


def marker(place: int | None) -> str:
    return "o" if place is None else MARKERS[place % len(MARKERS)]


def level(share: float) -> int:
    """Which of `SHARES` stands for a share, 0 to 1."""
    return round(10 * min(1.0, max(0.0, share)))


def on_level(share: float) -> str:
    """Colour of text that is legible there."""
    return INK if level(share) <= 5 else PAPER


def thin(x: Sequence[float], y: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Some of the points, evenly taken, the last among them: no more than a picture can show."""
    step = -(-len(x) // MOST_POINTS)
    return x[::-1][::step][::-1], y[::-1][::step][::-1]


def rims(axes: Axes, groups: Sequence[Sequence[tuple[float, float]]], sizes: Sequence[float]) -> list[np.ndarray]:
    """Diameters of marks in a settled figure, by which a mark that lies under another group's keeps a rim to be seen.

    Args:
        axes: With final limits.
        groups: Where marks are, in data; those of the first group lie on top.
        sizes: Diameters of each group's marks where they lie alone, in points.
    """
    out: list[np.ndarray] = []
    above, wide = np.empty((0, 2)), np.empty(0)
    for points, size in zip(groups, sizes, strict=True):
        at = axes.transData.transform(points) * 72 / axes.figure.dpi
        far = np.linalg.norm(at[:, None] - above, axis=2)
        out.append(np.minimum((wide + RIM - 2 * far).max(axis=1, initial=size), WIDEST))
        above, wide = np.vstack([above, at]), np.concatenate([wide, out[-1]])
    return out


def halo() -> list[withStroke]:
    """Path effect that keeps text legible where a line crosses it."""
    return [withStroke(linewidth=3.5, foreground=PAPER)]


def name_ends(axes: Axes, items: Iterable[tuple[float, str, str]]) -> None:
    """Name lines or points at the right of a plot, the highest first; each is (height, text, colour)."""
    handles = [Line2D([], [], color=paint, lw=3, label=text) for _, text, paint in sorted(items, reverse=True)]
    if handles:
        axes.legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.0, labelcolor="linecolor"
        )


def bigram_line(axes: Axes, loss: float) -> None:
    """What a bigram model of the same tokens has."""
    axes.axhline(loss, color=INK, lw=1.2, ls=(0, (4, 3)), zorder=1)
    axes.annotate(f"bigram model {loss:.2f}", (1, loss), xytext=(-6, 4), textcoords="offset points",
                  fontsize=10, ha="right", color=INK, xycoords=axes.get_yaxis_transform())  # fmt: skip


def millions(count: float) -> str:
    """A count for people: 842, 12.3k, 1.62M, 8.89B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            value = count / size
            return (
                f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}" if value >= 10 else f"{value:.2f}{unit}"
            )
    return f"{count:g}"


def short(name: str) -> str:
    """A name from a run's files as a picture shows it."""
    name = printable(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def powers() -> FuncFormatter:
    """Tick labels of a logarithmic axis: whole powers of ten, without mathematical notation."""

    def tell(value: float, _: Any) -> str:
        power = np.log10(value) if value > 0 else 0.5
        return f"10{str(round(power)).translate(SUPERSCRIPT)}" if abs(power - round(power)) < 1e-6 else ""

    return FuncFormatter(tell)


def counts(highest: float) -> FuncFormatter:
    """Tick labels of an axis of counts, all in the unit of the highest."""
    size, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if highest >= s), (1.0, ""))
    return FuncFormatter(lambda v, _: f"{v / size:g}{unit}" if v else "0")


def share_scale(axes: Axes, height: float) -> None:
    """Colours of shares from 0 to 1, above a plot at its right. `height`: of the plot's."""
    inset = axes.inset_axes((0.68, 1.0 + 1.1 * height, 0.22, height))
    for i, paint in enumerate(SHARES):
        inset.add_patch(Rectangle((i, 0), 1, 1, color=paint, lw=0.5))
    inset.set(xlim=(0, len(SHARES)), ylim=(0, 1))
    inset.set_axis_off()
    for x, text, side in ((0.66, "0", "right"), (0.92, "1", "left")):
        axes.text(
            x, 1.0 + 1.6 * height, text, transform=axes.transAxes, ha=side, va="center", fontsize=10, color=MUTED
        )
