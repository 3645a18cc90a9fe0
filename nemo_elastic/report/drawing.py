# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How every picture looks, on two widths; saved as a PNG, or as an SVG whose colours are a page's CSS variables."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from ..errors import printable
from .palette import INK, LIGHT, MARKERS, MEMBERS, MUTED, PALETTE, PAPER, PARENT, SHARES

VALUES: dict[Any, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LIGHT["edge"],
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
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "hatch.color": LIGHT["hatch"],
    "hatch.linewidth": 0.7,
    "text.parse_math": False,  # names may hold a dollar sign
    "path.simplify_threshold": 0.3,
}
DPI = 180
#: share of a picture that stays free at each edge
MARGIN = 0.008
#: inches of a headline
HEADROOM = 0.62
#: characters of a name in a picture
LONGEST, NARROWEST = 24, 10
#: points of a line, which a picture has no more pixels for
MOST_POINTS = 400
#: points by which a mark is wider than one that lies on it, and of the widest
RIM, WIDEST = 3.5, 32.0
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

#: `metadata` of matplotlib that leaves all of it out
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_VARIABLES = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}
_COLOUR = re.compile("#[0-9a-f]{6}")
_LONG = re.compile(r"-?\d+\.\d{2,}")


@dataclass(frozen=True)
class Sheet:
    """What a picture is drawn for: a page's column, or a phone. Letters have the same size on both.

    Attributes:
        width: In inches.
        narrow: Whether long labels stand under a plot instead of beside it.
    """

    width: float
    narrow: bool


WIDE, NARROW = Sheet(9.4, narrow=False), Sheet(4.35, narrow=True)


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
    """Lay a figure out for good: else each format in which it is saved does so again, and longer than it draws."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(MARGIN, MARGIN, 1 - 2 * MARGIN, 1 - 2 * MARGIN))  # pyright: ignore
        engine.execute(figure)
        figure.set_layout_engine(None)
        for axes in figure.axes:  # the solver's last digits are not the same each time, and ids of an SVG hash them
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


def inline(figure: Figure, name: str, words: str) -> str:
    """Give the figure as an `<svg>` element for an HTML page whose style has the palette's variables.

    Text that crosses lines (see `labels.halo`) is outlined by the page, in class `halo`.

    Args:
        figure: In the palette's light values, which it may share with others of the page.
        name: Of its ids, which are the page's.
        words: What it shows, for those who do not see it.
    """
    outlined = {text: text.get_path_effects() for text in figure.findobj(Text) if text.get_path_effects()}
    for text in outlined:
        text.set(path_effects=[], gid="halo")  # effects would turn it into outlines of letters
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=NOTHING, transparent=True)
    for text, effects in outlined.items():
        text.set_path_effects(effects)
    root = ElementTree.fromstring(out.getvalue())
    defined = {e.get("id") for e in root.iter() if not e.tag.endswith("}g")}
    for element in root.iter():
        _plain(element, name, defined)
    width, height = figure.get_size_inches() * 72
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": words}
    style = root.find("defs/style")
    if style is not None:
        style.text = ""  # a rule for everything in the page
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _plain(element: ElementTree.Element, name: str, defined: set[str | None]) -> None:
    """One element as HTML has it, short."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id" and value not in defined:  # names of groups, the same in every figure
            if value == "halo":
                attributes["class"] = value
            continue
        if key == "fill":  # of a hatch's ground
            key, value = "style", f"fill: {value}"
        if key == "style":
            value = _COLOUR.sub(lambda m: _VARIABLES[m[0]], value)
        elif key in ("d", "x", "y", "transform"):
            value = _LONG.sub(lambda m: f"{float(m[0]):.1f}", " ".join(value.split()))
        attributes[key] = value
    element.attrib = attributes
    element.tail = None
    if element.text and not element.text.strip():
        element.text = None


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


def millions(count: float) -> str:
    """A count for people: 842, 12.3k, 1.62M, 8.89B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            value = count / size
            return (
                f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}" if value >= 10 else f"{value:.2f}{unit}"
            )
    return f"{count:g}"


def short(name: str, sheet: Sheet = WIDE) -> str:
    """A name from a run's files as a picture shows it."""
    name, most = printable(name), NARROWEST if sheet.narrow else LONGEST
    return name if len(name) <= most else f"{name[: most - 1]}…"


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
