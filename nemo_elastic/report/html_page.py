# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and page of a run, in one folder that appears when it is whole. `page.html` says how the page looks."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nemo_elastic.core.latency import LatencyTable
from nemo_elastic.core.limits import LATENCY, Limit
from nemo_elastic.core.member import limits_of
from nemo_elastic.errors import ElasticError
from nemo_elastic.io.outputs import Output, atomic_dir, check_apart, why_kept
from nemo_elastic.io.read import read_bytes

from .. import __version__
from ..errors import printable
from ..verdicts import SHARED, TIE
from . import fig_candidates, fig_family, fig_importance, fig_latency, fig_loss, fig_router, fig_shapes, page_tables
from .drawing import (
    HEADROOM,
    Drawing,
    headline,
    house,
    millions,
    raise_edge,
    save,
    settle,
)
from .page_tables import Table
from .palette import variables
from .run_record import RunRecord, load_run

PAGE = "report.html"
#: in a run's folder, where nothing else of a run is
DEFAULT = "report"
#: file -> what draws it, in the order of the page; None means that the run has nothing for it
FIGURES: dict[str, Callable[[RunRecord], Drawing | None]] = {
    "family.png": fig_family.draw,
    "loss.png": fig_loss.draw,
    "latency.png": fig_latency.draw,
    "shapes.png": fig_shapes.draw,
    "importance.png": fig_importance.draw,
    "candidates.png": fig_candidates.draw,
    "router.png": fig_router.draw,
}
#: characters of a name that stays on one line, also on a phone; of a word that may be broken anywhere; of any text
FEW, ENDLESS, LONGEST = 18, 24, 1000

__all__ = ["FIGURES", "PAGE", "build_report", "render"]


@dataclass(frozen=True)
class Picture:
    """A picture for the page: what it shows, what only the page has room for, and its bytes in base64."""

    title: str
    words: str
    png: str


@dataclass(frozen=True)
class Section:
    """A part of the page: tables may have titles of their own."""

    title: str
    words: str = ""
    picture: Picture | None = None
    tables: list[tuple[str, Table]] = field(default_factory=list)


def _is_page(path: Path) -> bool:
    """Whether a file is the page of a report of ours, by what stands near its end."""
    try:
        return b"<footer>Made by nemo-elastic " in read_bytes(path)[-1000:]
    except (OSError, ElasticError):
        return False


REPORT = Output("a report", "|".join(map(re.escape, FIGURES)), PAGE, _is_page)


def build_report(
    run: Path | str, out: Path | str | None = None, force: bool = False, latency: LatencyTable | None = None
) -> Path:
    """Turn a run's folder into one HTML page with its pictures inside, and the same pictures as PNG files beside it.

    Parts that the run has not make the report shorter; damaged ones are left out and named on the page.

    Args:
        run: The folder that a run wrote, e.g. what `nemo-elastic demo --out` named.
        out: The folder to write, `report` in the run's when None. An earlier report there is replaced.
        force: Replace a link to an earlier report, too.
        latency: By which members are drawn over milliseconds; that of their budgets when None.

    Returns:
        The page.

    Raises:
        ElasticError: The run's folder holds nothing of a run, `out` exists and is no earlier report, or it is the run
            itself or a part of it; `latency` is of another parent.
    """
    run = Path(run)
    target = Path(out) if out is not None else run / DEFAULT
    read = _read_for(run)
    check_apart(target, *read)  # first: what is read may be what would be replaced
    loaded = replace(load_run(run), latency=latency)
    earlier = target.is_dir() and not target.is_symlink() and why_kept(target, REPORT) is None
    with atomic_dir(target, force or earlier, read, REPORT) as folder:
        with house():
            drawn = {name: _picture(loaded, draw, folder / name) for name, draw in FIGURES.items()}
        pictures = {name: picture for name, picture in drawn.items() if picture is not None}
        (folder / PAGE).write_text(render(loaded, pictures), encoding="utf-8")
    return target / PAGE


def _picture(run: RunRecord, draw: Callable[[RunRecord], Drawing | None], path: Path) -> Picture | None:
    """One picture, in a file and for the page; None where the run has nothing for it."""
    drawn = draw(run)
    if drawn is None:
        return None
    settle(drawn.figure)
    raise_edge(drawn.figure, HEADROOM)
    headline(drawn.figure, drawn.title, drawn.words)
    png = b64encode(save(drawn.figure, path).read_bytes()).decode()
    return Picture(f"{drawn.title}. {drawn.words}".strip(), drawn.more, png)


def _read_for(run: Path) -> list[Path]:
    """What a report reads: everything in a run but earlier reports, which may be replaced."""
    try:
        inside = [Path(run, name) for name in os.listdir(run)]
    except OSError:
        return []  # `load_run` says what it is
    return [path for path in inside if path.name != DEFAULT and not _is_page(path / PAGE)]


def _safe(value: Any) -> Any:
    """What stands in a place of the template: text from a run's files is cut, and control characters spelled out."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value if len(value) <= LONGEST else f"{value[:LONGEST]}…")


def render(run: RunRecord, pictures: Mapping[str, Picture]) -> str:
    """Write the page.

    Args:
        run: What is known of the run.
        pictures: File name -> picture, see `FIGURES`.

    Returns:
        The whole HTML document.
    """
    environment = Environment(autoescape=True, finalize=_safe, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.tests["endless"] = lambda text: max(map(len, text.split()), default=0) > ENDLESS
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=f"Elastic run: {run.path.resolve().name}",
        lead=_lead(run),
        tiles=list(_tiles(run)),
        notes=run.notes,
        sections=list(_sections(run, pictures)),
        settings=_with_titles(_settings(run)),
        version=__version__,
        variables=variables,
        few=FEW,
    )


def _lead(run: RunRecord) -> str:
    rows = [m for m in page_tables.members(run) if m["trained"]]
    phases = ", ".join(p.label for p in run.phases)
    sentence = f"Phases with figures: {phases}." if phases else ""
    if len(rows) > 1 and rows[0]["parameters"]:
        smallest = rows[-1]["parameters"]
        down = f" down to {millions(smallest)}" if smallest else ""
        return (
            f"A parent of {millions(rows[0]['parameters'])} parameters and {len(rows) - 1} smaller members inside "
            f"it{down}. Any of them is cut out without training. {sentence}"
        ).strip()
    return sentence


def _tiles(run: RunRecord) -> Iterator[tuple[str, str]]:
    rows = [m for m in page_tables.members(run) if m["trained"]]
    small = rows[-1] if len(rows) > 1 else None
    number, share, results = page_tables.decimals, page_tables.percent, run.results
    if run.before and run.before.loss is not None:
        yield number(run.before.loss), "held-out loss of the parent before elastic training"
    elif results and results.parent_end is not None:
        yield number(results.parent_end), "held-out loss of the parent as its own training ended"
    if rows and rows[0]["loss"] is not None:
        yield number(rows[0]["loss"]), f"loss of the largest member, {rows[0]['name']}"
    if small and small["loss"] is not None:
        yield number(small["loss"]), f"loss of the smallest member, {small['name']}"
    if small and small["ratio"]:
        yield share(small["ratio"]), f"of the parent's parameters in {small['name']}"
    if small and small["recovered"] is not None:
        yield share(small["recovered"]), f"of the gap of {small['name']} closed by training"
    if results and results.bigram_loss is not None:
        yield number(results.bigram_loss), "loss of a bigram model"
    if results and results.total:
        yield page_tables.seconds(results.total), "all phases"


def _with_titles(tables: Mapping[str, Table | None]) -> list[tuple[str, Table]]:
    return [(title, table) for title, table in tables.items() if table is not None]


def _sections(run: RunRecord, pictures: Mapping[str, Picture]) -> Iterator[Section]:
    """Pictures, and tables behind the first of them."""
    for name in FIGURES:
        if name in pictures:
            tables = {"Candidates": page_tables.candidates_table(run)} if name == "candidates.png" else {}
            yield Section("", pictures[name].words, pictures[name], _with_titles(tables))
        if name == "family.png":
            yield from _members(run)


def _members(run: RunRecord) -> Iterator[Section]:
    spec = run.serving
    sizes, quality = page_tables.sizes_table(run), page_tables.quality_table(run)
    tasks = page_tables.tasks_table(run)
    if sizes:
        words = (
            f"Parameters are exact counts. Memory is {spec.weights} weights, KV cache ({spec.cache}) and state "
            f"({spec.state}) of one sequence of {spec.length:,} tokens, as nemo-elastic inspect counts it."
        )
        yield Section("Members", words, None, _with_titles({"": sizes, "Layers": page_tables.patterns_table(run)}))
    accuracy = page_tables.accuracy_words(run)
    if quality or tasks or accuracy:
        words = (
            "Loss is held-out nats per token. Untrained and unsorted are the member's shape, cut before training from "
            "the sorted and from the unsorted parent; gap closed is the share of the way from the untrained cut to "
            f"the parent before elastic training, for gaps from {SHARED:g} nats. Losses closer than {TIE:g} count "
            f"as equal. {accuracy}".strip()
        )
        yield Section("What they are worth", words, None, _with_titles({"": quality, "Accuracy by task": tasks}))


def _asked(limit: Limit) -> Any:
    """A limit as a budget has it; of a table its name."""
    return {**limit.value, "table": str(limit.value["table"])} if limit.kind is LATENCY else limit.value


def _settings(run: RunRecord) -> dict[str, Table | None]:
    facts, family, ranking, parent = page_tables.facts_table, run.family, run.ranking, run.parent
    tables = {"Time": page_tables.time_table(run), "Targets": page_tables.targets_table(run)}
    if family:
        budgets = {m.name: {x.kind.field: _asked(x) for x in limits_of(m)} or "the parent" for m in family}
        tables["Choices of every axis"] = facts({n: list(a.choices) for n, a in family.axes.items()})
        tables["Budgets"] = facts(budgets)
    if parent:  # what stands among the members is not repeated
        listed = ("pattern", "hidden") if any(run.subnet_of(n) == parent.full for n in run.names) else ()
        tables["Parent"] = facts({k: v for k, v in parent.to_json().items() if k not in listed})
    if ranking:
        twice = ("sequences", ranking.provenance.get("samples"))
        seen = dict(field for field in ranking.provenance.items() if field != twice)
        tables["Ranking"] = facts({"digest": ranking.digest, **ranking.options.to_json(), **seen})
    tables["Data"] = facts(run.data)
    if family:
        digest = {} if ranking and ranking.digest == family.ranking_digest else {"ranking": family.ranking_digest}
        tables["Provenance of the family"] = facts({**digest, **family.provenance})
    return tables
