# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the page: text by rows and columns, from a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.member import limits_used

from ..errors import shown
from .candidates import comparisons, tracks
from .drawing import millions
from .result import Answers
from .run_record import RunRecord, number

DASH = "–"
ALL, INTERVALS = "all problems", "In brackets: Wilson's interval of 95%, in percent."
#: of values from a run's files: entries of a list, rows of a table, and levels
MOST_ENTRIES, MOST_ROWS, DEEPEST = 100, 500, 6


@dataclass(frozen=True)
class Table:
    """Text in cells; without heads it has two columns, of names and values.

    Attributes:
        heads: Of the columns; all but the first hold numbers.
        rows: As many cells each.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


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
    if value >= 3600:
        return "{} h {:02d} min".format(*divmod(round(value / 60), 60))
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{value:.1f} s"


def members(run: RunRecord) -> list[dict[str, Any]]:
    """Every member with what is known of it, the parent as it was before them. Also for `--json`.

    Sizes come from its shape where that is known.
    """
    out = []
    whole_parent = run.parent and int(parameters(run.parent, run.parent.full))
    limits = limits_used(run.family.parent, run.family) if run.family else {}
    for name in run.names:
        result = run.results.member(name) if run.results else None
        cost, subnet, active = run.cost_of(name), run.subnet_of(name), run.active_of(name)
        figures = {
            key: getattr(result, key, None)
            for key in ("loss", "perplexity", "accuracy", "untrained_loss", "unsorted_loss", "recovered")
        }
        answers = result.answers if result else None
        out.append(
            {
                "name": name,
                "trained": run.place(name) is not None,
                "parameters": cost[0] if cost else getattr(result, "parameters", None),
                **({} if active is None else {"active_parameters": active}),
                "ratio": cost[0] / whole_parent if cost and whole_parent else getattr(result, "ratio", None),
                **({"limits": limits[name]} if name in limits else {}),
                "memory": asdict(run.serving),
                "memory_bytes": cost[1] if cost else None,
                "hidden": subnet.hidden if subnet else getattr(result, "hidden", None),
                "layers": len(subnet.layers) if subnet else getattr(result, "layers", None),
                "pattern": subnet.pattern if subnet else getattr(result, "pattern", ""),
                **figures,
                "answers": answers.to_json() if answers else None,
            }
        )
    return out


#: (head, cell of a member)
Column = tuple[str, Callable[[dict[str, Any]], str]]


def sizes_table(run: RunRecord) -> Table | None:
    """What every member is."""
    dtype = run.serving.weights
    return _members_table(run, [
        ("parameters", lambda m: whole(m["parameters"])),
        ("active", lambda m: whole(m.get("active_parameters"))),
        ("of parent", lambda m: percent(m["ratio"], 1)),
        ("of its limits", lambda m: m.get("limits", DASH)),
        (f"memory ({dtype})", lambda m: size(m["memory_bytes"])),
        ("hidden", lambda m: whole(m["hidden"])),
        ("depth", lambda m: whole(m["layers"])),
    ])  # fmt: skip


def patterns_table(run: RunRecord) -> Table | None:
    """The layers that every member keeps, in letters."""
    shown = _members_table(run, [("layers", lambda m: m["pattern"] or DASH)])
    return shown and Table((), [row for row in shown.rows if row[1] != DASH])


def quality_table(run: RunRecord) -> Table | None:
    """What every member is worth."""
    by_name = {m.name: m.answers for m in run.results.members} if run.results else {}
    totals = {a.total for a in by_name.values() if a}
    one, above = len(totals) == 1, _beats_chance(_asked(run).get(ALL, []))
    asked = f"accuracy, n = {totals.pop():,}" if one else "accuracy"
    return _members_table(run, [
        ("loss", lambda m: decimals(m["loss"])),
        ("perplexity", lambda m: decimals(m["perplexity"], 2)),
        # of the parent's own size nothing was cut
        ("untrained cut", lambda m: decimals(None if m["ratio"] == 1 else m["untrained_loss"])),
        ("unsorted cut", lambda m: decimals(None if m["ratio"] == 1 else m["unsorted_loss"])),
        ("gap closed", lambda m: percent(m["recovered"], 1)),
        (asked, lambda m: share(by_name.get(m["name"]), counted=not one) if above else DASH),
    ])  # fmt: skip


def _asked(run: RunRecord) -> dict[str, list[Answers | None]]:
    """What every model made of all problems and of each task."""
    rows = run.results.members if run.results else ()
    tasks = dict.fromkeys(task for m in rows for task in m.answers_by_task)
    each = {t: [m.answers_by_task.get(t) for m in rows] for t in tasks}
    whole = [m.answers for m in rows]
    return {ALL: whole, **each} if any(whole) else each


def _beats_chance(each: Sequence[Answers | None]) -> bool:
    """Whether the first model that was asked, which is the parent, is right more often than a guess."""
    return any(answers.beats_chance for answers in [a for a in each if a][:1])


def accuracy_words(run: RunRecord) -> str:
    """What the page says of its accuracies, and which are left out because they tell nothing."""
    asked = {name: _beats_chance(each) for name, each in _asked(run).items()}
    out = [name for name, above in asked.items() if not above]
    of = f" on {', '.join(out)}" if len(out) < len(asked) else ""
    left = f"Accuracy{of} is left out: the parent's is no better than a task's most frequent answer."
    return f"{INTERVALS * any(asked.values())} {left * bool(out)}".strip()


def _members_table(run: RunRecord, columns: Sequence[Column]) -> Table | None:
    rows = members(run)
    used = [(head, give) for head, give in columns if any(give(m) != DASH for m in rows)]
    if not used:
        return None
    same: dict[tuple[str, ...], list[str]] = {}  # members that a table cannot tell apart are one row
    for m in rows:
        same.setdefault(tuple(give(m) for _, give in used), []).append(m["name"])
    return Table(["member", *(head for head, _ in used)], [[", ".join(who), *cells] for cells, who in same.items()])


def tasks_table(run: RunRecord) -> Table | None:
    rows = run.results.members if run.results else ()
    body = []
    for task, each in _asked(run).items():
        if task == ALL or not _beats_chance(each):
            continue
        totals = {a.total for a in each if a}
        n = f"{totals.pop():,}" if len(totals) == 1 else DASH
        body.append([task, n, *(share(a, n == DASH) for a in each)])
    if not body:
        return None
    if all(row[1] == DASH for row in body):
        body = [[task, *cells] for task, _, *cells in body]
        return Table(["task", *(m.name for m in rows)], body)
    return Table(["task", "n", *(m.name for m in rows)], body)


def share(answers: Answers | None, counted: bool) -> str:
    """A share of right answers with its interval of 95%; `counted`: and of how many."""
    if answers is None:
        return DASH
    low, high = answers.interval
    of = f" of {answers.total:,}" if counted else ""
    return f"{answers.correct / answers.total:.1%}{of} ({100 * low:.1f} to {100 * high:.1f})"


def candidates_table(run: RunRecord) -> Table | None:
    """Shape, losses, trained micro-batches and outcome of every candidate."""
    rounds, every = comparisons(run), tracks(run)
    heads = ["candidate", "hidden", "layers", "experts", "parameters", "untrained"]
    heads += [*(f"step {step}" for step in rounds), "batches", "outcome"]
    rows = [
        [f"{name}: {t.number}", whole(t.subnet.hidden), whole(len(t.subnet.layers)), t.experts or DASH,
         millions(int(parameters(run.parent, t.subnet))), decimals(t.untrained),
         *(decimals(t.losses.get(step)) for step in rounds), whole(t.trained), t.outcome]
        for name, own in every.items() for t in own if run.parent
    ]  # fmt: skip
    used = [i for i in range(len(heads)) if any(row[i] != DASH for row in rows)]
    return Table([heads[i] for i in used], [[row[i] for i in used] for row in rows]) if rows else None


def time_table(run: RunRecord) -> Table | None:
    spent = run.results.seconds if run.results else {}
    if run.results and run.results.total is not None:
        return Table(["phase", "time"], [[k, seconds(v)] for k, v in {**spent, "all": run.results.total}.items()])
    rows = []
    for phase in run.phases:
        spent = phase.series("seconds")[1]
        if spent:
            rows.append([phase.label, whole(phase.steps[-1]["step"]), whole(phase.tokens), seconds(spent[-1])])
    return Table(["phase", "steps", "tokens", "time"], rows) if rows else None


def targets_table(run: RunRecord) -> Table | None:
    """What the run was held against: what was measured and asked, and whether that is met."""
    rows = []
    for name, target in list((run.results.targets if run.results else {}).items())[:MOST_ROWS]:
        fields = target if isinstance(target, Mapping) else {}
        measured, least, most = (number(fields.get(k)) for k in ("found", "at_least", "at_most"))
        asked = least if least is not None else most
        if measured is None or asked is None:
            continue
        met = measured >= asked if least is not None else measured <= asked
        unit = str(fields.get("unit", ""))[:20]
        rows.append([name, f"{measured:+.3f} {unit}", f"at {'least' if least is not None else 'most'} {asked:g}",
                     "yes" if met else "no"])  # fmt: skip
    return Table(["target", "found", "asked", "met"], rows) if rows else None


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


def facts_table(data: Mapping[str, Any] | None) -> Table | None:
    return Table((), facts(data)) if data else None


def _text(value: Any, levels: int = DEEPEST) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: DASH}[value]
    if isinstance(value, int):
        return shown(value) if abs(value) < 10000 or number(value) is None else f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        more = ["…"] * (len(value) > MOST_ENTRIES)
        parts = (_text(v, levels - 1) if levels else "…" for v in value[:MOST_ENTRIES])
        return ", ".join([*parts, *more]) or DASH
    return (value if isinstance(value, str) else shown(value)) if value != {} else DASH
