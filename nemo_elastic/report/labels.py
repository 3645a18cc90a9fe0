# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Words in a picture, kept apart from each other: at the ends of lines, around points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from .palette import PAPER

#: points from one line of a label to the next
LEADING = 14.0


def halo() -> list[withStroke]:
    """Path effect that keeps text legible where a line crosses it."""
    return [withStroke(linewidth=3.5, foreground=PAPER)]


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


def name_lines(axes: Axes, x: float, items: Sequence[tuple[float, str, str]]) -> None:
    """Name lines at their right ends.

    Args:
        axes: With final limits.
        x: Where the lines end, in data.
        items: (y in data, text, colour) of each.
    """
    low, high = sorted(axes.get_ylim())
    height = axes.get_position().height * float(axes.get_figure().get_size_inches()[1])  # pyright: ignore
    gap = (high - low) * 0.19 / max(height, 0.5)
    places = spread([min(max(y, low), high) for y, _, _ in items], gap)  # a line may end outside of the picture
    if places:  # all inside the axes, if there is room
        shift = min(0.0, high - gap / 2 - max(places))
        shift = max(shift, low + gap / 2 - min(places))
        places = [p + shift for p in places]
    for (_, text, paint), place in zip(items, places, strict=True):
        axes.annotate(
            text, (x, place), xytext=(9, 0), textcoords="offset points", va="center", color=paint, fontsize=10,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Label:
    """Lines of text beside a point.

    Attributes:
        at: The point, in data.
        lines: Text and style of each, from the top.
        places: Where it may stand, the best first: points to the right of `at` and above it, and which side of the
            text is there, "left", "center" or "right". Text above a point ends there, text below begins there, text
            beside it is centred.
        needed: Whether it stands in its first place, on whatever is there, where none is free.
    """

    at: tuple[float, float]
    lines: Sequence[tuple[str, dict[str, Any]]]
    places: Sequence[tuple[float, float, str]]
    needed: bool = False


@dataclass
class Labels:
    """Labels of one plot that keep off each other and off what else is there; what finds no place is left out."""

    axes: Axes
    taken: list[Bbox] = field(default_factory=list)

    def keep_off(self, low: tuple[float, float], high: tuple[float, float], margin: float = 0.0) -> None:
        """No label between two points in data, and `margin` points around them."""
        (x0, y0), (x1, y1) = self.axes.transData.transform([low, high])
        more = margin * self.axes.figure.dpi / 72
        self.taken.append(Bbox([[min(x0, x1) - more, min(y0, y1) - more], [max(x0, x1) + more, max(y0, y1) + more]]))

    def add(self, label: Label) -> bool:
        """Write it in the first place that is free; whether it was written."""
        for place in label.places:
            written = self._write(label, place)
            boxes = [text.get_window_extent() for text in written]
            if all(self._is_free(box) for box in boxes):
                self.taken += boxes
                return True
            for text in written:
                text.remove()
        if label.needed:
            self.taken += [text.get_window_extent() for text in self._write(label, label.places[0])]
        return label.needed

    def _write(self, label: Label, place: tuple[float, float, str]) -> list[Any]:
        right, up, side = place
        rows = len(label.lines) - 1
        first = up + rows * LEADING if up > 0 else up if up < 0 else rows * LEADING / 2
        va = "bottom" if up > 0 else "top" if up < 0 else "center"
        out = []
        for k, (text, style) in enumerate(label.lines):
            note = self.axes.annotate(
                text, label.at, xytext=(right, first - k * LEADING), textcoords="offset points", ha=side, va=va,
                annotation_clip=False, path_effects=halo(), zorder=9, **style,
            )  # fmt: skip
            note.set_in_layout(False)  # the plot stays where it is
            out.append(note)
        return out

    def _is_free(self, box: Bbox) -> bool:
        room = self.axes.get_figure().bbox  # pyright: ignore[reportOptionalMemberAccess]
        low = self.axes.bbox.y0  # ticks are below
        inside = room.x0 <= box.x0 and box.x1 <= room.x1 and low <= box.y0 and box.y1 <= room.y1
        return inside and not any(box.overlaps(other) for other in self.taken)
