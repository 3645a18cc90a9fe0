# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`shapes.png`: what every member keeps of every layer, at each step of finding the shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..family import LAYER_AXES, SYMBOL, Layer, Parent, Subnet
from .load import Run
from .style import INK, KINDS, MUTED, SHARE, headline, new_figure, short


def draw(run: Run) -> Figure | None:
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
    figure = new_figure(9.4, min(11.0, 1.75 + 0.36 * height + (0.15 if n > 30 else 0)))
    grid = figure.add_gridspec(1, 2, width_ratios=[5.2, 1.0], wspace=0.03)
    axes, side = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    written = n <= 20
    ends = {"parent", *(stages[-1][0] for _, stages in groups)}
    for top, (_, stage, subnet) in zip(tops, labels, strict=True):
        for i in range(n):
            layer = subnet.by_index.get(i)
            share = 0.0 if layer is None else kept_share(parent, layer)
            style: dict[str, Any] = (
                {"fc": SHARE(share)} if layer else {"fc": "white", "hatch": "////", "ec": "#c3cbd4", "lw": 0}
            )
            axes.add_patch(Rectangle((i + 0.04, top + 0.06), 0.92, 0.88, **style))
            if written and layer is not None:
                axes.text(i + 0.5, top + 0.5, f"{share:.0%}".rstrip("%"), ha="center", va="center", fontsize=9,
                          color="white" if share > 0.55 else INK)  # fmt: skip
        final = stage in ends
        hidden = subnet.hidden / parent.hidden
        side.barh(top + 0.5, 1.0, 0.72, color="#f0f3f6")
        side.barh(top + 0.5, hidden, 0.72, color="#3d6f96" if final else "#9db7cb")
        side.text(0.04, top + 0.5, str(subnet.hidden), va="center", fontsize=9, color="white" if final else INK)
    axes.set(xlim=(0, n), ylim=(height, 0))
    axes.set_yticks([t + 0.5 for t in tops], [_label(name, stage) for name, stage, _ in labels])
    for tick, (_, stage, _) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_color(INK if stage in ends else MUTED)
        tick.set_fontweight("bold" if stage in ends else "normal")
    size = 11 if n <= 40 else 8
    axes.set_xticks(np.arange(n) + 0.5, [SYMBOL[t] for t in parent.types], fontsize=size, fontweight="bold")
    for tick, kind in zip(axes.get_xticklabels(), parent.types, strict=True):
        tick.set_color(KINDS[kind])
    axes.set_xlabel("layers of the parent:  M Mamba-2,  - MLP,  * attention")
    side.set(xlim=(0, 1), ylim=(height, 0), yticks=[], title="hidden width")
    side.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    for a in (axes, side):
        a.grid(visible=False)
        a.spines[:].set_visible(False)
    axes.set_title("share of a layer's width, %" if written else "share of a layer's width: darker is more")
    headline(
        figure, "What every member keeps", "Hatched layers are dropped. The finished members are nested in each other."
    )
    return figure


def kept_share(parent: Parent, layer: Layer) -> float:
    """Share of a layer's inner width that is kept (Mamba: heads times their channels), 0 to 1."""
    share = 1.0
    for axis, (kind, field) in LAYER_AXES.items():
        if kind == layer.type:
            share *= getattr(layer, field) / parent.axis(axis).size
    return share


def rows(run: Run) -> list[tuple[str, list[tuple[str, Subnet]]]]:
    """(member, [(stage of its shape, shape)]) from the parent down; stages that agree are one row."""
    out: list[tuple[str, list[tuple[str, Subnet]]]] = []
    shapes = run.shapes
    final = run.subnets
    for name in dict.fromkeys([*final, *shapes.frozen, *shapes.found]):
        last = final.get(name) or shapes.frozen.get(name) or shapes.found[name]
        if run.parent is not None and last == run.parent.full:
            out.append((name, [("parent", last)]))
            continue
        stages = [(shapes.source, shapes.found.get(name)), ("router", shapes.raw.get(name)),
                  ("frozen", shapes.frozen.get(name))]  # fmt: skip
        known = [(stage, s) for stage, s in stages if s is not None]
        if run.family and (not known or known[-1][1] != last or known[-1][0] == "frozen"):
            known = [k for k in known if k[0] != "frozen"] + [("trained", last)]
        out.append((name, known))
    return out


def _label(name: str, stage: str) -> str:
    return f"{short(name)} {stage}" if stage == "parent" else f"{short(name)} · {short(stage)}"
