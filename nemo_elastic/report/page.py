# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One HTML page with the pictures and tables of a run. `page.html` says how the page looks."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nemo_elastic import __version__
from nemo_elastic.core.cost import counts, memory
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.member import limits_used
from nemo_elastic.errors import printable
from nemo_elastic.io.outputs import Output, atomic_dir, check_apart, why_kept
from nemo_elastic.verdicts import SHARED, TIE

from .figures import FIGURES, Drawing
from .run import Answers, Run, load_run
from .style import house, millions

PAGE = "report.html"
#: in the folder of a run
DEFAULT = "report"
REPORT = Output("a report")
DASH = "–"
#: characters of a text from a run's files
LONGEST = 1000


@dataclass(frozen=True)
class Table:
    """Cells of text. Without heads it has two columns, of names and values."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page: a picture as base64, words, and a table."""

    title: str
    words: str = ""
    png: str = ""
    table: Table | None = None


def build_report(run: Path | str, out: Path | str | None = None) -> Path:
    """Write one HTML page of a run with its pictures inside, and the pictures as PNG files in the same folder.

    Args:
        run: the folder that a run wrote, e.g. the demo's.
        out: the folder to write, `report` in the run's when None. An earlier report there is replaced.

    Returns:
        The page.

    Raises:
        ElasticError: the folder has no part of a run or a damaged one; `out` is no earlier report, or a part of the
            run.
    """
    run = Path(run)
    target = Path(out) if out is not None else run / DEFAULT
    parts = [run / name for name in os.listdir(run) if name != DEFAULT] if run.is_dir() else []
    check_apart(target, *parts)  # first: a part that is read may be what would be replaced
    loaded = load_run(run)
    earlier = target.is_dir() and not target.is_symlink() and why_kept(target, REPORT) is None
    with atomic_dir(target, earlier, parts, REPORT) as folder:
        sections = []
        with house():
            for name, draw in FIGURES.items():
                if (drawing := draw(loaded)) is not None:
                    sections.append(_picture(drawing, folder / name))
        (folder / PAGE).write_text(render(loaded, sections), encoding="utf-8")
    return target / PAGE


def _picture(drawing: Drawing, path: Path) -> Section:
    drawing.figure.savefig(path)
    return Section(drawing.title, drawing.words, b64encode(path.read_bytes()).decode())


def render(run: Run, pictures: Sequence[Section] = ()) -> str:
    """The whole page. Text from the run's files is escaped, shortened, and without control characters."""

    def safe(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return printable(value if len(value) <= LONGEST else f"{value[:LONGEST]}…")

    environment = Environment(autoescape=True, finalize=safe, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    first, *others = pictures or (None,)
    sections = [*([first] if first else []), *_members(run), *(s for s in others if s)]
    return template.render(
        title=f"Elastic run: {run.path.resolve().name}", lead=_lead(run), notes=run.notes, sections=sections,
        settings=list(_settings(run)), version=__version__,
    )  # fmt: skip


def members(run: Run) -> list[dict[str, Any]]:
    """Every model with its figures, the parent before elastic training first. Also for `--json`."""
    out, parent = [], run.parent
    limits = limits_used(run.family.parent, run.family) if run.family else {}
    for name in run.names:
        result, trained = run.result(name), run.place(name) is not None
        subnet = run.subnets.get(name) if trained else parent and parent.full
        row: dict[str, Any] = {"name": name, "trained": trained, "memory": asdict(run.serving), "memory_bytes": None}
        for key in ("parameters", "ratio", "hidden", "layers", "pattern"):
            row[key] = getattr(result, key, None)
        for key in ("loss", "perplexity", "untrained_loss", "unsorted_loss", "recovered"):
            row[key] = getattr(result, key, None)
        row["divergence"] = run.divergence(name) if trained else None
        row["answers"] = asdict(result.answers) if result and result.answers else None
        if subnet is not None and parent is not None:
            row |= counts(parent, subnet)
            row |= {
                "ratio": row["parameters"] / counts(parent, parent.full)["parameters"],
                "memory_bytes": int(memory(parent, subnet, run.serving)),
                "hidden": subnet.hidden, "layers": len(subnet.layers), "pattern": subnet.pattern,
            }  # fmt: skip
        out.append(row | ({"limits": limits[name]} if name in limits else {}))
    return out


def _lead(run: Run) -> str:
    rows = [m for m in members(run) if m["trained"]]
    phases = ", ".join(p.label for p in run.phases)
    family = ""
    if len(rows) > 1 and rows[0]["parameters"] and rows[-1]["parameters"]:
        family = (
            f"{len(rows)} models in one set of weights, from {millions(rows[0]['parameters'])} to "
            f"{millions(rows[-1]['parameters'])} parameters. Each is cut out without training. "
        )
    return f"{family}{f'Phases with figures: {phases}.' if phases else ''}".strip()


def _members(run: Run) -> Iterator[Section]:
    rows, spec = members(run), run.serving
    sizes = _columns(rows, {
        "parameters": lambda m: _whole(m["parameters"]),
        "active": lambda m: _whole(m.get("active_parameters")),
        "of parent": lambda m: _percent(m["ratio"], 1),
        "of its limits": lambda m: m.get("limits", DASH),
        f"memory ({spec.weights})": lambda m: _bytes(m["memory_bytes"]),
    })  # fmt: skip
    if sizes:
        words = (
            f"Memory: {spec.weights} weights, key-value cache ({spec.cache}) and Mamba state ({spec.state}) of one "
            f"sequence of {spec.length:,} tokens."
        )
        yield Section("Sizes", words, table=sizes)
    shapes = _shapes(run)
    if shapes:
        yield Section("Shapes", "A range is given where layers differ in width. A dot is a dropped layer.",
                      table=shapes)  # fmt: skip
    worth = _columns(rows, {
        "loss": lambda m: _decimals(m["loss"]),
        "perplexity": lambda m: _decimals(m["perplexity"], 2),
        "untrained cut": lambda m: DASH if m["ratio"] == 1 else _decimals(m["untrained_loss"]),
        "unsorted cut": lambda m: DASH if m["ratio"] == 1 else _decimals(m["unsorted_loss"]),
        "gap closed": lambda m: _percent(m["recovered"], 1),
        "divergence": lambda m: _decimals(m["divergence"], 4),
        "right answers": lambda m: _answers(m["answers"]),
    })  # fmt: skip
    words = []
    if run.results:
        bigram = run.results.bigram_loss
        words.append(
            "Losses are in nats per token of held-out text. The cuts have the member's shape before training: the "
            "untrained cut comes from the sorted parent, the unsorted cut from the parent as stored. The gap is the "
            "distance from the untrained cut to the parent before elastic training; it has no share below "
            f"{SHARED:g} nats. Losses closer than {TIE:g} count as equal. Right answers have a 95 % interval; a guess "
            "always gives the most frequent answer of a task."
        )
        if bigram is not None:
            words.append(f"A bigram model of the same tokens has a loss of {bigram:.3f}.")
    if any(m["divergence"] is not None for m in rows):
        words.append("The divergence from the parent (KL) is that of the last validation, the end of its curve.")
    if worth and words:
        yield Section("Quality", " ".join(words), table=worth)


def _shapes(run: Run) -> Table | None:
    """Widths of every member by axis, and its layers."""
    parent, subnets = run.parent, run.subnets
    if parent is None or not subnets:
        return None
    inner = [axis for axis in parent.axes if axis not in (HIDDEN, DEPTH)]
    rows = []
    for name, subnet in subnets.items():
        widths = [sorted({layer.widths[a] for layer in subnet.layers if a in layer.widths}) for a in inner]
        cells = [DASH if not w else str(w[0]) if len(w) == 1 else f"{w[0]}–{w[-1]}" for w in widths]
        rows.append([name, str(subnet.hidden), str(len(subnet.layers)), *cells, _pattern(run, subnet)])
    return Table(["member", HIDDEN, DEPTH, *inner, "layers"], rows)


def _pattern(run: Run, subnet: Subnet) -> str:
    letters = run.parent.pattern if run.parent else ""
    return "".join(letter if i in subnet.by_index else "·" for i, letter in enumerate(letters))


def _settings(run: Run) -> Iterator[Section]:
    if run.results and run.results.seconds:
        yield Section("Time", table=Table((), [[k, f"{v:.0f} s"] for k, v in run.results.seconds.items()]))
    if run.results and run.results.targets:
        rows = [
            [name, f"{t.found:+.3f} {t.unit}", f"at least {t.at_least:g}" if t.at_least is not None else
             f"at most {t.at_most or 0:g}", "yes" if t.met else "no"]
            for name, t in run.results.targets.items()
        ]  # fmt: skip
        yield Section("Targets", table=Table(["target", "found", "asked", "met"], rows))
    records: dict[str, Mapping[str, Any] | None] = {
        "Parent": run.parent and run.parent.to_json(),
        "Axes": run.family and {n: list(a.choices) for n, a in run.family.axes.items()},
        "Ranking": run.ranking and {"digest": run.ranking.digest, **run.ranking.options.to_json(),
                                    **run.ranking.provenance},
        "Provenance": run.family and run.family.provenance,
    }  # fmt: skip
    for title, record in records.items():
        if record:
            yield Section(title, table=Table((), [[name, _text(value)] for name, value in record.items()]))


def _columns(rows: Sequence[dict[str, Any]], columns: Mapping[str, Callable[[dict[str, Any]], str]]) -> Table | None:
    """A table of models with those columns in which any of them has a figure."""
    used = {head: cell for head, cell in columns.items() if any(cell(m) != DASH for m in rows)}
    return (
        Table(["member", *used], [[m["name"], *(cell(m) for cell in used.values())] for m in rows]) if used else None
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_text(v)}" for k, v in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)


def _decimals(value: float | None, places: int = 3) -> str:
    return DASH if value is None else f"{value:,.{places}f}"


def _percent(value: float | None, places: int = 0) -> str:
    return DASH if value is None else f"{value:.{places}%}"


def _whole(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.2f} MiB"


def _answers(given: Mapping[str, int] | None) -> str:
    if given is None:
        return DASH
    answers = Answers(**given)
    low, high = answers.interval
    return f"{answers.correct} of {answers.total} ({low:.0%}–{high:.0%}; guess {answers.guessed})"
