# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How every picture looks: Okabe and Ito's palette, safe for colour-blind readers, and one set of values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from ..errors import printable

INK, MUTED, FAINT, PAPER = "#1b2430", "#5f6b7a", "#dfe4ea", "#ffffff"
#: the parent first, then its members from the largest; the order keeps neighbours apart in hue and in lightness
MEMBERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f6000", "#6a3d9a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
#: kinds of layer, and the axes of a family
KINDS = {"mamba": "#0072b2", "mlp": "#e69f00", "attention": "#009e73"}
AXES = {
    "hidden": "#1b2430",
    "ffn": "#e69f00",
    "mamba_heads": "#0072b2",
    "mamba_head_dim": "#56b4e9",
    "attention_heads": "#009e73",
    "depth": "#cc79a7",
}
AXIS_WORDS = {
    "hidden": "hidden width",
    "ffn": "FFN width",
    "mamba_heads": "Mamba heads",
    "mamba_head_dim": "Mamba head channels",
    "attention_heads": "attention heads",
    "depth": "depth",
}
SHARE = LinearSegmentedColormap.from_list("share", ["#eef4f9", "#9fc8e3", "#3d8fc4", "#0b5a94", "#06365c"])

VALUES: dict[Any, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": "#aab3be",
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
    "grid.color": "#e9edf1",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "hatch.color": "#c3cbd4",
    "hatch.linewidth": 0.7,
    "text.parse_math": False,  # names may hold a dollar sign
}
DPI = 180
#: characters of a name in a picture
LONGEST = 24
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG whose bytes depend on the picture alone."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def headline(figure: Figure, title: str, subtitle: str = "") -> None:
    """Title and an explaining line under it, at the left of the figure."""
    width, height = figure.get_size_inches()
    room = 0.62 if subtitle else 0.36
    figure.get_layout_engine().set(rect=(0.008, 0.008, 0.984, 1 - room / height - 0.008))  # pyright: ignore
    figure.text(0.12 / width, 1 - 0.10 / height, title, va="top", fontsize=14, fontweight="bold", color=INK)
    if subtitle:
        figure.text(0.12 / width, 1 - 0.38 / height, subtitle, va="top", fontsize=10, color=MUTED)


def colour(index: int) -> str:
    return MEMBERS[index % len(MEMBERS)]


def marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


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


def halo() -> list[withStroke]:
    """Path effect that keeps text legible where a line crosses it."""
    return [withStroke(linewidth=3.5, foreground=PAPER)]


def counts(highest: float) -> FuncFormatter:
    """Tick labels of an axis of counts, all in the unit of the highest."""
    size, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if highest >= s), (1.0, ""))
    return FuncFormatter(lambda v, _: f"{v / size:g}{unit}" if v else "0")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near `wanted`, at least `gap` apart, in the same order: for labels that would overlap."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, list[int]]] = []  # (middle, members)
    for i in order:
        groups.append((wanted[i], [i]))
        while len(groups) > 1:
            (low, below), (high, above) = groups[-2:]
            if high - low >= gap * (len(below) + len(above)) / 2:
                break
            n = len(below) + len(above)
            groups[-2:] = [((low * len(below) + high * len(above)) / n, below + above)]
    out = [0.0] * len(wanted)
    for middle, inside in groups:
        for k, i in enumerate(inside):
            out[i] = middle + gap * (k - (len(inside) - 1) / 2)
    return out


def end_labels(axes: Axes, x: float, items: Sequence[tuple[float, str, str]]) -> None:
    """Name lines at their right ends instead of in a legend.

    Args:
        axes: With final limits.
        x: Where the lines end, in data.
        items: (y in data, text, colour) of each.
    """
    low, high = sorted(axes.get_ylim())
    height = axes.get_position().height * float(axes.get_figure().get_size_inches()[1])  # pyright: ignore
    gap = (high - low) * 0.19 / max(height, 0.5)
    places = spread([y for y, _, _ in items], gap)
    if places:  # all inside the axes, if there is room
        shift = min(0.0, high - gap / 2 - max(places))
        shift = max(shift, low + gap / 2 - min(places))
        places = [p + shift for p in places]
    for (_, text, paint), place in zip(items, places, strict=True):
        axes.annotate(
            text, (x, place), xytext=(9, 0), textcoords="offset points", va="center", color=paint, fontsize=10,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip
