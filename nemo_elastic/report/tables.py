# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the page: HTML from a run, everything from its files escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..errors import printable, shown
from .load import Run, number

DASH = "–"
#: of values from a run's files: characters of one, entries of a list, rows of a table, and levels
LONGEST, MOST_ENTRIES, MOST_ROWS, DEEPEST = 1000, 100, 500, 6


def safe(text: str) -> str:
    """Text from a run's files as HTML shows it, and does nothing else with it."""
    return escape(printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…"))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """An HTML table of cells that are text; the first `words` columns are words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if i < words else ' class=num'}>{safe(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{line(heads, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def decimals(value: float | None, places: int = 3) -> str:
    return DASH if value is None else f"{value:,.{places}f}"


def percent(value: float | None, places: int = 0) -> str:
    return DASH if value is None else f"{value:.{places}%}"


def whole(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes for people."""
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.2f} {unit}"
        value /= 1024
    return DASH


def seconds(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{value:.1f} s"


def members(run: Run) -> list[dict[str, Any]]:
    """Every member with what is known of it; sizes come from its shape where that is known. Also for `--json`."""
    out = []
    for name in run.names:
        result = run.results.member(name) if run.results else None
        cost, subnet = run.cost_of(name), run.subnets.get(name)
        told = {
            key: getattr(result, key, None)
            for key in ("loss", "perplexity", "accuracy", "untrained_loss", "unsorted_loss", "recovered")
        }
        parameters = cost[0] if cost else getattr(result, "parameters", None)
        whole_parent = run.cost_of(run.names[0])
        ratio = cost[0] / whole_parent[0] if cost and whole_parent else getattr(result, "ratio", None)
        out.append(
            {
                "name": name,
                "parameters": parameters,
                "ratio": ratio,
                "memory_bytes": cost[1] if cost else getattr(result, "memory_bytes", None),
                "hidden": subnet.hidden if subnet else getattr(result, "hidden", None),
                "layers": len(subnet.layers) if subnet else getattr(result, "layers", None),
                "pattern": subnet.pattern if subnet else getattr(result, "pattern", ""),
                **told,
            }
        )
    return out


def members_table(run: Run) -> str:
    rows = members(run)
    if not rows:
        return ""
    columns = [
        ("member", lambda m: m["name"]),
        ("parameters", lambda m: whole(m["parameters"])),
        ("of parent", lambda m: percent(m["ratio"], 1)),
        ("memory", lambda m: size(m["memory_bytes"])),
        ("bytes", lambda m: whole(m["memory_bytes"])),
        ("hidden", lambda m: whole(m["hidden"])),
        ("depth", lambda m: whole(m["layers"])),
        ("loss", lambda m: decimals(m["loss"])),
        ("perplexity", lambda m: decimals(m["perplexity"], 2)),
        ("accuracy", lambda m: percent(m["accuracy"], 1)),
        ("untrained cut", lambda m: decimals(m["untrained_loss"])),
        ("unsorted cut", lambda m: decimals(m["unsorted_loss"])),
        ("gap closed", lambda m: percent(m["recovered"], 1)),
        ("layers", lambda m: m["pattern"] or DASH),
    ]
    used = [(head, give) for head, give in columns if any(give(m) != DASH for m in rows)]
    return table([head for head, _ in used], [[give(m) for _, give in used] for m in rows])


def tasks_table(run: Run) -> str:
    rows = run.results.members if run.results else ()
    tasks = list(dict.fromkeys(task for m in rows for task in m.accuracy_by_task))
    if not tasks:
        return ""
    names = [m.name for m in rows]
    body = [[task, *(percent(m.accuracy_by_task.get(task)) for m in rows)] for task in tasks]
    return table(["task", *names], body)


def projection_table(run: Run) -> str:
    rows = []
    for name, p in run.shapes.projection.items():
        target, raw, cost = (number(p.get(k)) for k in ("target", "raw_cost", "cost"))
        if target and raw is not None and cost is not None:
            rows.append(
                [name, whole(target), whole(raw), f"{raw / target - 1:+.1%}", whole(cost), f"{cost / target - 1:+.1%}"]
            )
    heads = ["budget", "target", "router's choice", "miss", "frozen", "miss"]
    return table(heads, rows) if rows else ""


def time_table(run: Run) -> str:
    told = run.results.seconds if run.results else {}
    if told:
        return table(["phase", "time"], [[k, seconds(v)] for k, v in [*told.items(), ("all", sum(told.values()))]])
    rows = []
    for phase in run.phases:
        spent = phase.series("seconds")[1]
        if spent:
            rows.append([phase.label, whole(phase.steps[-1]["step"]), whole(phase.tokens), seconds(spent[-1])])
    return table(["phase", "steps", "tokens", "time"], rows) if rows else ""


def facts(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as (dotted name, text)."""
    out: list[tuple[str, str]] = []
    for key, value in data.items():
        if len(out) >= MOST_ROWS:
            return [*out, (f"{prefix}…", "and more")]
        if isinstance(value, Mapping) and value and prefix.count(".") < DEEPEST:
            out += facts(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", _text(value)))
    return out


def facts_table(data: Mapping[str, Any] | None) -> str:
    if not data:
        return ""
    body = "".join(f"<tr><td>{safe(k)}</td><td>{safe(v)}</td></tr>" for k, v in facts(data))
    return f'<div class="wide"><table class="facts"><tbody>{body}</tbody></table></div>'


def _text(value: Any, levels: int = DEEPEST) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: DASH}[value]
    if isinstance(value, int):
        return shown(value) if abs(value) < 10000 or number(value) is None else f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        more = ["…"] * (len(value) > MOST_ENTRIES)
        told = (_text(v, levels - 1) if levels else "…" for v in value[:MOST_ENTRIES])
        return ", ".join([*told, *more]) or DASH
    return (value if isinstance(value, str) else shown(value)) if value != {} else DASH
