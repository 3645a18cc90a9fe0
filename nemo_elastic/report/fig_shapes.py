# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`shapes.png`: what every member keeps of every layer, at each step of finding the shapes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.member import why_not_nested

from .drawing import WIDTH, Drawing, level, new_figure, on_level, share_scale, short
from .palette import INK, MUTED, PALETTE, PAPER, SHARES, kind_colour
from .run_record import RunRecord


def draw(run: RunRecord) -> Drawing | None:
    """Draw it; None where no member's shape is known."""
    parent, groups = run.parent, rows(run)
    if parent is None or not groups:
        return None
    labels = [(name, stage, subnet) for name, stages in groups for stage, subnet in stages]
    tops: list[float] = []  # of every row, with air between members
    y = 0.0
    for _, stages in groups:
        tops += [y + k for k in range(len(stages))]
        y += len(stages) + 0.45
    height = y - 0.45
    n = parent.num_layers
    figure = new_figure(WIDTH, min(11.0, 1.45 + 0.36 * height))
    grid = figure.add_gridspec(1, 2, width_ratios=[5.2, 1.0], wspace=0.03)
    axes, side = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    written = n <= 20
    ends = {"parent", *(stages[-1][0] for _, stages in groups)}
    for top, (_, stage, subnet) in zip(tops, labels, strict=True):
        _layers(axes, top, parent, subnet, written)
        _hidden(side, top, subnet.hidden, subnet.hidden / parent.hidden, stage in ends)
    axes.set_yticks([t + 0.5 for t in tops], [_label(name, stage) for name, stage, _ in labels])
    for tick, (_, stage, _) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_color(INK if stage in ends else MUTED)
        tick.set_fontweight("bold" if stage in ends else "normal")
    low = _kinds(axes, parent, height, n <= 40)
    for a in (axes, side):
        a.set(ylim=(low, 0))
    axes.set(xlim=(0, n), xlabel="layers of the parent")
    side.set(xlim=(0, 1), yticks=[], title="hidden")
    side.set_xticks([0, 1], ["0", "all"])
    for a in (axes, side):
        a.grid(visible=False)
        a.spines[:].set_visible(False)
    if written:
        axes.set_title("share of a layer's width, %")
    else:
        axes.set_title("share of width", y=1.0)  # a fixed place: it would make room for the scale
        share_scale(axes, 0.07 * 5 / height)
    final = list(run.subnets.values())
    nested = all(why_not_nested(b, a) is None for a, b in pairwise(final)) and len(final) > 1
    return Drawing(
        figure,
        "What every member keeps",
        "Hatched layers are dropped." + " The finished members are nested in each other." * nested,
        "Earlier rows of a member show its shape while shapes were found.",
    )


def _layers(axes: Axes, top: float, parent: Parent, subnet: Subnet, written: bool) -> None:
    """A row: what a shape keeps of every layer."""
    for i in range(parent.num_layers):
        layer = subnet.by_index.get(i)
        share = 0.0 if layer is None else kept_share(parent, layer)
        style: dict[str, Any] = (
            {"fc": SHARES[level(share)]} if layer else {"fc": PAPER, "hatch": "////", "ec": PALETTE["hatch"], "lw": 0}
        )
        axes.add_patch(Rectangle((i + 0.04, top + 0.06), 0.92, 0.88, **style))
        if written and layer is not None:
            axes.text(i + 0.5, top + 0.5, f"{share:.0%}".rstrip("%"), ha="center", va="center", fontsize=9.5,
                      color=on_level(share))  # fmt: skip


def _hidden(axes: Axes, top: float, width: int, share: float, final: bool) -> None:
    axes.barh(top + 0.5, 1.0, 0.72, color=PALETTE["bar"])
    axes.barh(top + 0.5, share, 0.72, color=PALETTE["s7"] if final else PALETTE["early"])
    axes.text(0.04, top + 0.5, str(width), va="center", fontsize=10, color=PAPER if final else INK)


def _kinds(axes: Axes, parent: Parent, height: float, letters: bool) -> float:
    """What kind every layer is: its letter, or a strip of colours where there is no room. Gives the lower limit."""
    n = parent.num_layers
    axes.set_xticks(np.arange(n) + 0.5, list(parent.pattern), fontsize=11, fontweight="bold")
    for tick, kind in zip(axes.get_xticklabels(), parent.types, strict=True):
        tick.set_color(kind_colour(kind))
    if not letters:
        axes.set_xticks([])
        for i, kind in enumerate(parent.types):
            axes.add_patch(Rectangle((i, height + 0.25), 1, 0.4, color=kind_colour(kind), lw=0))
    axes.get_figure().legend(  # pyright: ignore[reportOptionalMemberAccess]
        handles=[Patch(color=kind_colour(k.name), label=f"{k.symbol} {k.words}") for k in parent.kinds],
        loc="outside lower left", ncols=len(parent.kinds), handlelength=0.8, handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip
    return height if letters else height + 0.65


def kept_share(parent: Parent, layer: Layer) -> float:
    """Share of a layer's inner width that is kept (Mamba: heads times their channels), 0 to 1."""
    share = 1.0
    for axis, width in layer.widths.items():
        share *= width / parent.size(axis)
    return share


def rows(run: RunRecord) -> list[tuple[str, list[tuple[str, Subnet]]]]:
    """(member, [(stage of its shape, shape)]) from the parent down; one that stayed has one row."""
    out: list[tuple[str, list[tuple[str, Subnet]]]] = []
    shapes, final = run.shapes, run.subnets
    for name in dict.fromkeys([*final, *shapes.frozen, *shapes.first]):
        last = final.get(name) or shapes.frozen.get(name) or shapes.first[name]
        if run.parent is not None and last == run.parent.full:
            out.append((name, [("parent", last)]))
            continue
        end = "trained" if run.family else "frozen" if name in shapes.frozen else shapes.source
        first = shapes.first.get(name)
        out.append((name, [*([(shapes.source, first)] if first and first != last else []), (end, last)]))
    return out


def _label(name: str, stage: str) -> str:
    name = short(name)
    return f"{name} {stage}" if stage == "parent" else f"{name} · {short(stage)}"
