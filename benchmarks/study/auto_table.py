# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and picture of the study of members that choose themselves: quality over cost, what each signal is worth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.study.auto import AT, COSTS
from benchmarks.study.results import Results, markdown
from benchmarks.study.studies import SEEDS
from nemo_elastic.report.style import INK, MUTED, colour, headline, house, new_figure
from nemo_elastic.runtime.signals import SIGNALS

#: first part of the jobs' names -> how quality is reported: its column, a factor, digits
QUALITY = {"answers": ("right answers, %", 100.0, 1), "text": ("nats per token", -1.0, 4)}

#: of each table, so that prose can name its cells
TITLES = {"answers": "Questions about a text", "text": "Text and problems of the demo"}


def mean(group: Sequence[dict[str, Any]], *path: str) -> float:
    """Of a figure over the seeds."""
    return statistics.mean(value(result, path) for result in group)


def value(result: dict[str, Any], path: Sequence[str]) -> Any:
    inner: Any = result
    for key in path:
        inner = inner[key]
    return inner


def gain(group: Sequence[dict[str, Any]], scale: float, digits: int, *path: str) -> str:
    """Mean gain over random mixing, and the outermost ends of the seeds' 95 % intervals; more is better."""
    rows = [value(result, path) for result in group]
    centre = scale * statistics.mean(row["gain"] for row in rows)
    low = scale * min(row["gain"] - row["wide"] for row in rows)
    high = scale * max(row["gain"] + row["wide"] for row in rows)
    return f"{centre:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def curve(group: Sequence[dict[str, Any]], what: str) -> str:
    """Fixed members and cost settings: what they cost and how good they are, beside random mixing."""
    column, scale, digits = QUALITY[what]
    rows = []
    for i, name in enumerate(group[0]["members"] if group else ()):
        size = 100 * statistics.mean(result["sizes"][i] for result in group)
        quality = scale * statistics.mean(result["quality"][i] for result in group)
        rows.append([f"always {name}", f"{size:.0f}", f"{quality:.{digits}f}", "", "", f"{size:.0f}", ""])
    for cost in (f"{cost:g}" for cost in COSTS if group):
        at = ("auto", cost)
        numbers = [100 * mean(group, *at, "size"), 100 * mean(group, *at, "read")]
        good = [f"{scale * mean(group, *at, name):.{digits}f}" for name in ("quality", "random", "random_read")]
        rows.append(
            [f"auto {cost}", f"{numbers[0]:.0f}", good[0], good[1], gain(group, abs(scale), digits, *at),
             f"{numbers[1]:.0f}", good[2]]
        )  # fmt: skip
    unit = column.partition(" ")[0] if what == "text" else "%"
    head = ["who answers", "size per answer token, %", column, f"random mixing, {unit}", "gain"]
    return markdown([*head, "size per prompt token, %", f"random mixing at that, {unit}"], rows)


def worth(groups: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """What single signals gain over random mixing, all of them, and who would know the answers."""
    ways: list[tuple[str, tuple[str, ...]]]
    ways = [("all signals", ("auto", f"{AT:g}")), *((name, ("single", name)) for name in SIGNALS)]
    ways.append(("perfect foresight", ("perfect",)))
    rows = []
    for title, path in ways if all(groups.values()) else ():
        cells = [gain(group, abs(QUALITY[what][1]), QUALITY[what][2], *path) for what, group in groups.items()]
        rows.append([f"`{title}`" if title in SIGNALS else title, *cells])
    if rows:
        shares = [f"{100 * mean(group, 'explained'):.0f}%" for group in groups.values()]
        rows.append(["variance of the largest's gain that all signals tell", *shares])
    return markdown([f"gain at {AT:g} by", "right answers, points", "nats per token"], rows)


def groups_of(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Kind of prompts -> results of its seeds, those that are there."""
    return {
        what: [results[name] for seed in SEEDS if (name := f"auto-{what}-{seed}") in results]
        for what in ("answers", "text")
    }


def auto(results: Results) -> str:
    """Questions about a text, then text and problems, then signals."""
    groups = groups_of(results)
    tables = [f"{TITLES[what]}:\n\n{curve(group, what)}" for what, group in groups.items()]
    return "\n".join([*tables, f"Single signals:\n\n{worth(groups)}"])


def picture(groups: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """One plot for each kind of prompts.

    Args:
        groups: kind of prompts -> its results, one of each seed.
    """
    with house():
        figure = new_figure(4.7 * len(groups), 3.9)
        for axes, (what, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
            column, scale, _ = QUALITY[what]
            size = [100 * mean(group, "auto", f"{cost:g}", "size") for cost in COSTS]
            for name, label, shade, dashes in (("quality", "auto", 0, "-"), ("random", "random mixing", 1, "--")):
                good = [scale * mean(group, "auto", f"{cost:g}", name) for cost in COSTS]
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
        headline(figure, "Quality over size, for each cost setting", "mean of three seeds; higher is better")
    return figure
