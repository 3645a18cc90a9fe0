# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file with its pictures inside. Nothing is fetched, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from .. import __version__
from ..verdicts import SHARED, TIE
from . import tables
from .css import STYLE
from .load import RunRecord
from .style import millions
from .tables import safe


@dataclass(frozen=True)
class Picture:
    """A picture for the page: what it shows, and its `<svg>` for a wide column and for a phone."""

    title: str
    words: str
    wide: str
    narrow: str


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$lead</p>
$tiles
$body
<footer>Made by nemo-elastic $version from the files of the run alone.</footer>
</main>
</body>
</html>
""")


def render(run: RunRecord, pictures: Mapping[str, Picture]) -> str:
    """Write the page.

    Args:
        run: What is known of the run.
        pictures: File name -> picture, see `build.FIGURES`.

    Returns:
        The whole HTML document.
    """
    projection = _titled("Router's choices and their projection", tables.projection_table(run))
    parts = [
        _notes(run),
        _picture("family.png", pictures),
        _members(run),
        _picture("loss.png", pictures),
        _picture("shapes.png", pictures, projection),
        _picture("importance.png", pictures),
        _picture("router.png", pictures),
        _settings(run),
    ]
    name = run.path.resolve().name
    return PAGE.substitute(
        title=safe(f"Elastic run: {name}"),
        style=STYLE,
        lead=safe(_lead(run)),
        tiles=_tiles(run),
        body="\n".join(p for p in parts if p),
        version=safe(__version__),
    )


def _lead(run: RunRecord) -> str:
    rows = [m for m in tables.members(run) if m["trained"]]
    phases = ", ".join(p.label for p in run.phases)
    told = f"Phases with figures: {phases}." if phases else ""
    if len(rows) > 1 and rows[0]["parameters"]:
        smallest = rows[-1]["parameters"]
        down = f" down to {millions(smallest)}" if smallest else ""
        return (
            f"A parent of {millions(rows[0]['parameters'])} parameters and {len(rows) - 1} smaller members inside "
            f"it{down}. Any of them is cut out without training. {told}"
        ).strip()
    return told


def _tiles(run: RunRecord) -> str:
    rows = [m for m in tables.members(run) if m["trained"]]
    tiles: list[tuple[str, str]] = []
    if run.before and run.before.loss is not None:
        tiles.append((tables.decimals(run.before.loss), "held-out loss of the parent before elastic training"))
    elif run.results and run.results.parent_end is not None:
        tiles.append(
            (tables.decimals(run.results.parent_end), "held-out loss of the parent as its own training ended")
        )
    if rows and rows[0]["loss"] is not None:
        tiles.append((tables.decimals(rows[0]["loss"]), f"loss of the largest member, {rows[0]['name']}"))
    small = rows[-1] if len(rows) > 1 else None
    if small and small["loss"] is not None:
        tiles.append((tables.decimals(small["loss"]), f"loss of the smallest member, {small['name']}"))
    if small and small["ratio"]:
        tiles.append((tables.percent(small["ratio"]), f"of the parent's parameters in {small['name']}"))
    if small and small["recovered"] is not None:
        tiles.append((tables.percent(small["recovered"]), f"of the gap of {small['name']} closed by training"))
    if run.results and run.results.bigram_loss is not None:
        tiles.append((tables.decimals(run.results.bigram_loss), "loss of a bigram model"))
    if run.results and run.results.spent:
        tiles.append((tables.seconds(run.results.spent), "all phases"))
    inside = "".join(f'<div class="tile"><b>{safe(b)}</b><span>{safe(s)}</span></div>' for b, s in tiles)
    return f'<div class="tiles">{inside}</div>' if tiles else ""


def _section(title: str, words: str, body: str) -> str:
    lead = f"<p>{safe(words)}</p>" if words else ""
    return f"<section><h2>{safe(title)}</h2>{lead}{body}</section>"


def _titled(title: str, body: str) -> str:
    return f"<h3>{safe(title)}</h3>{body}" if body else ""


def _picture(name: str, pictures: Mapping[str, Picture], more: str = "") -> str:
    if name not in pictures:
        return ""
    p = pictures[name]
    drawn = f'<div class="plot wide">{p.wide}</div><div class="plot narrow">{p.narrow}</div>'
    return _section(p.title, p.words, drawn + more)


def _members(run: RunRecord) -> str:
    sizes, quality = tables.sizes_table(run), tables.quality_table(run)
    spec = run.serving
    counted = (
        f"Parameters are exact counts. Memory is {spec.weights} weights, KV cache ({spec.cache}) and state "
        f"({spec.state}) of one sequence of {spec.length:,} tokens, as nemo-elastic inspect counts it."
    )
    measured = (
        "Loss is held-out nats per token. Untrained and unsorted are the member's shape, cut before training from the "
        "sorted and from the unsorted parent; gap closed is the share of the way from the untrained cut to the parent "
        f"before elastic training, told of gaps from {SHARED:g} nats. Losses closer than {TIE:g} count as equal. "
        "In brackets: Wilson's interval of 95%, in percent."
    )
    longer = (
        "A second, smaller family, whose texts ask for what they said before. Right answers of its members by how "
        "many tokens back the answer stands: as stage 1 ended, and after a stage 2 of as many tokens, in sequences as "
        "short or of whole texts. In brackets: Wilson's interval of 95%, in percent."
    )
    distances = tables.context_table(run)
    tasks = _titled("Accuracy by task", tables.tasks_table(run))
    patterns = _titled("Layers", tables.patterns_table(run))
    return (
        (_section("Members", counted, sizes + patterns) if sizes else "")
        + (_section("What they are worth", measured, quality + tasks) if quality or tasks else "")
        + (_section("What the longer context brings", longer, distances) if distances else "")
    )


def _notes(run: RunRecord) -> str:
    if not run.notes:
        return ""
    items = "".join(f"<li>{safe(note)}</li>" for note in run.notes)
    return f'<section class="notes"><h2>Not in this report</h2><ul>{items}</ul></section>'


def _settings(run: RunRecord) -> str:
    parts = [_titled("Time", tables.time_table(run))]
    if run.results:
        parts.append(_titled("Targets", tables.targets_table(run)))
    if run.family:
        axes = {n: list(a.choices) for n, a in run.family.axes.items()}
        budgets: dict[str, Any] = {m.name: dict(m.budget) if m.budget else "the parent" for m in run.family}
        parts.append(_titled("Choices of every axis", tables.facts_table(axes)))
        parts.append(_titled("Budgets", tables.facts_table(budgets)))
    if run.parent:
        parts.append(_titled("Parent", tables.facts_table(run.parent.to_json())))
    if run.ranking:
        parts.append(_titled("Ranking", tables.facts_table(
            {"digest": run.ranking.digest, **run.ranking.options.to_json(), **run.ranking.provenance}
        )))  # fmt: skip
    if run.data:
        parts.append(_titled("Data", tables.facts_table(run.data)))
    if run.family:
        parts.append(_titled("Provenance of the family", tables.facts_table(
            {"ranking": run.family.ranking_digest, **run.family.provenance}
        )))  # fmt: skip
    body = "".join(parts)
    return (
        f"<section><details open><summary>Settings and provenance</summary>{body}</details></section>" if body else ""
    )
