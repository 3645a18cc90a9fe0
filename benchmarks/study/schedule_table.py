# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the study of the router's schedule."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.study.results import Results, markdown
from benchmarks.study.schedule import CHANGES, NATS, POINTS, settings

#: space -> ends of the names of the jobs that share a row
SPACES = {
    "a width per layer": ("", "-more-seeds", "-9b", "-8b"),
    "one width": ("-12b-one-width", "-9b-one-width", "-8b-one-width"),
}
Figures = Sequence[dict[str, Any]]


def regret(runs: Figures) -> str:
    """Mean at the freeze, in percent of the signal."""
    return f"{100 * statistics.mean(r['regret'][-1] for r in runs):.2f}"


def settled(runs: Figures) -> str:
    """Mean step after which nineteen in twenty choices stay, and after which all do."""
    return " / ".join(f"{statistics.mean(r[key] for r in runs):.0f}" for key in ("settled", "decided"))


def missed(runs: Figures) -> str:
    """The largest miss of a choice before projection."""
    return f"{100 * max((r['raw'] for r in runs), key=abs):+.1f}"


def course(results: Results, name: str) -> list[list[str]]:
    """What one setting does over time: entropy and regret at each point, a row per signal."""
    rows = []
    for nats, runs in signals(results, name).items():
        cells = []
        for i in range(len(POINTS)):
            entropy = statistics.mean(each[i] for r in runs for each in r["open"].values())
            cells.append(f"{entropy:.3f}, {100 * statistics.mean(r['regret'][i] for r in runs):.2f}")
        over = 100 * max((r["over"] for r in runs), key=abs)
        start = f"{100 * statistics.mean(r['start'] for r in runs):.2f}"
        rows.append([name, nats, start, *cells, f"{over:+.1f}"])
    return rows


def signals(results: Results, name: str) -> dict[str, Figures]:
    """Nats -> figures of all seeds."""
    result = results.get(f"schedule-{name}", {"signals": {}})
    return {f"{nats:g}": runs for nats in NATS if (runs := result["signals"].get(f"{nats:g}"))}


def setting(results: Results, name: str) -> list[str]:
    """Row of one setting."""
    runs = list(signals(results, name).values())
    which, _, change = name.partition("-")
    start = f"{100 * statistics.mean(r['start'] for r in runs[0]):.2f}"
    figures = [figure(each) for figure in (regret, settled, missed) for each in runs]
    return [which, CHANGES.get(change, change) or "–", start, *figures]


def schedule(results: Results) -> str:
    """Every setting that has run."""
    head = ["setting", "with", "regret of the search %"]
    nats = [f"{n:g}" for n in NATS]
    head += [f"{what}, {n} nats" for what in ("regret %", "settled / decided at step", "off budget %") for n in nats]
    return markdown(head, [setting(results, name) for name in settings() if f"schedule-{name}" in results])


def schedule_course(results: Results) -> str:
    """The two settings over time."""
    head = ["setting", "nats", "search", *(f"at {share:.0%}" for share in POINTS), "expected cost off budget %"]
    done = [name for name in ("before", "now") if f"schedule-{name}" in results]
    return markdown(head, [row for name in done for row in course(results, name)])


def schedule_pairs(results: Results) -> str:
    """Both settings beside the search, over every family and seed that both have run."""
    rows = []
    for title, suffixes in SPACES.items():
        for nats in (f"{n:g}" for n in NATS):
            ends, start = {}, []
            for which in ("before", "now"):
                runs = [r for x in suffixes for r in signals(results, which + x).get(nats, ())]
                ends[which] = [100 * r["regret"][-1] for r in runs]
                start = [100 * r["start"] for r in runs]
            if not start or len(ends["before"]) != len(ends["now"]):
                continue
            figures = [f"{statistics.mean(each):.2f}" for each in (start, ends["before"], ends["now"])]
            figures.append(f"{100 * (1 - statistics.mean(ends['now']) / statistics.mean(start)):.0f}")
            wins = [lower(ends["before"], start), lower(ends["now"], start), lower(ends["now"], ends["before"])]
            rows.append([title, nats, str(len(start)), *figures, *wins])
    head = ["FFN", "nats", "runs", "search: regret %", "before", "now", "now takes back %",
            "before: better / worse than the search", "now: better / worse than the search",
            "now: better / worse than before"]  # fmt: skip
    return markdown(head, rows)


def lower(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """In how many pairs a figure is lower, and higher."""
    pairs = list(zip(ours, theirs, strict=True))
    return f"{sum(a < b for a, b in pairs)} / {sum(a > b for a, b in pairs)}"
