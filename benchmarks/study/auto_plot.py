# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Picture of the study of members that are chosen by themselves: quality over size, beside random mixing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.study.auto import DIALS
from benchmarks.study.auto_table import TITLES, TOLD, mean
from nemo_elastic.report.style import INK, MUTED, colour, headline, house, new_figure


def draw(groups: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """One plot for each kind of prompts.

    Args:
        groups: kind of prompts -> its results, one of each seed.
    """
    with house():
        figure = new_figure(4.7 * len(groups), 3.9)
        for axes, (what, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
            column, scale, _ = TOLD[what]
            size = [100 * mean(group, "auto", f"{dial:g}", "size") for dial in DIALS]
            for name, label, shade, dashes in (("quality", "auto", 0, "-"), ("random", "random mixing", 1, "--")):
                good = [scale * mean(group, "auto", f"{dial:g}", name) for dial in DIALS]
                axes.plot(
                    size, good, dashes, color=colour(shade), marker="o" if shade == 0 else None, ms=5, label=label
                )
            for i, member in enumerate(group[0]["members"]):
                at = 100 * statistics.mean(result["sizes"][i] for result in group)
                good = scale * statistics.mean(result["quality"][i] for result in group)
                axes.plot(at, good, "s", ms=6, color=INK, label="always one member" if i == 0 else None)
                axes.annotate(member, (at, good), xytext=(6, -12), textcoords="offset points", fontsize=9, color=MUTED)
            axes.set_title(TITLES[what])
            axes.set_xlabel("size per answer token, % of the largest")
            axes.set_ylabel(column)
            if scale < 0:
                axes.invert_yaxis()  # better is up in both
            axes.margins(0.08, 0.12)
        axes.legend(loc="lower right")
        headline(figure, "Quality over size, for each dial", "mean of three seeds; higher is better")
    return figure
