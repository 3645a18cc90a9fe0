# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The look of pictures: matplotlib's defaults, one colour and marker for each member, and a headline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED = "#1b2430", "#5f6b7a"
#: the parent before elastic training
PARENT = MUTED
MARKERS = "os^Dv*PX"


@contextmanager
def house() -> Iterator[None]:
    """Draw inside this block: matplotlib's defaults with a few changes, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font does not have all letters of a member's name
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
                "grid.color": "#e3e7ec", "legend.frameon": False, "text.parse_math": False, "savefig.dpi": 160,
                "axes.titlesize": "medium", "svg.hashsalt": "nemo-elastic",
            }
        )  # fmt: skip
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches on the Agg canvas, without pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, title: str, subtitle: str = "") -> None:
    """Title of a figure, and a line that explains the figure."""
    figure.suptitle(f"{title}\n{subtitle}".strip(), x=0.01, ha="left", fontsize="large", color=INK)


def colour(place: int | None) -> str:
    """Colour of a member by its rank from the largest; None for the parent before elastic training."""
    return PARENT if place is None else f"C{place % 10}"


def marker(place: int | None) -> str:
    """Marker of a member by its place."""
    return "o" if place is None else MARKERS[place % len(MARKERS)]


def millions(count: float) -> str:
    """A count for people: 842, 12.3k, 1.62M, 8.89B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"
