# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file with its pictures inside. Nothing is fetched, nothing is run."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from string import Template
from typing import Any

from .. import __version__
from . import tables
from .load import Run
from .style import millions
from .tables import safe

#: picture -> heading, what it shows
WORDS = {
    "family.png": (
        "Quality against size",
        "Every member on the held-out text: cut from the parent as it was stored, cut after sorting by importance, "
        "and after the joint training of all members.",
    ),
    "loss.png": (
        "Training",
        "Held-out loss of every member. In the stages, all members are trained together in one set of weights.",
    ),
    "shapes.png": ("Shapes", "What the members keep of every layer, while their shapes are found and in the end."),
    "importance.png": ("Importance", "What the ranking measured in the parent; members keep what stands first."),
    "router.png": ("Router", "How the choice of shapes went from undecided to frozen."),
}

STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --muted: #5f6b7a; --line: #e2e7ec; --paper: #ffffff;
  --back: #f4f6f9; --accent: #0a5a94; --warn: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf1; --muted: #9aa7b6; --line: #2e3846; --paper: #1a212b;
  --back: #11161d; --accent: #7fc1ee; --warn: #3a2f17; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 0 0 4px; }
h3 { font-size: 0.95rem; margin: 22px 0 6px; }
p { margin: 0 0 14px; color: var(--muted); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px;
  margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 0.86rem; }
img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 8px; }
@media (prefers-color-scheme: dark) { img { padding: 10px; filter: brightness(0.93); } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; min-width: 100%; }
th { text-align: left; color: var(--muted); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: 6px 14px 6px 0; white-space: nowrap; vertical-align: top; }
td { border-bottom: 1px solid var(--line); }
td:first-child { font-weight: 600; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.facts td:first-child { color: var(--muted); font-weight: 400; width: 1%; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.notes { background: var(--warn); }
.notes li { overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; font-size: 1.2rem; }
footer { color: var(--muted); font-size: 0.85rem; margin-top: 24px; }
@media print { body { background: white; } section { break-inside: avoid; } }
"""

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


def render(run: Run, pictures: Mapping[str, bytes]) -> str:
    """Write the page.

    Args:
        run: What is known of the run.
        pictures: File name -> PNG, see `build.FIGURES`.

    Returns:
        The whole HTML document.
    """
    parts = [_notes(run), _picture("family.png", pictures), _members(run)]
    parts += [_picture(name, pictures) for name in ("loss.png",)]
    parts += [
        _picture(
            "shapes.png", pictures, _titled("Router's choices and their projection", tables.projection_table(run))
        )
    ]
    parts += [_picture(name, pictures) for name in ("importance.png", "router.png")]
    parts += [_settings(run)]
    name = run.path.resolve().name
    return PAGE.substitute(
        title=safe(f"Elastic run: {name}"),
        style=STYLE,
        lead=safe(_lead(run)),
        tiles=_tiles(run),
        body="\n".join(p for p in parts if p),
        version=safe(__version__),
    )


def _lead(run: Run) -> str:
    rows = tables.members(run)
    phases = ", ".join(p.label for p in run.phases)
    told = f"Phases with figures: {phases}." if phases else ""
    if len(rows) > 1 and rows[0]["parameters"]:
        smallest = rows[-1]["parameters"]
        down = f" down to {millions(smallest)}" if smallest else ""
        return (
            f"A parent of {millions(rows[0]['parameters'])} parameters and {len(rows) - 1} members inside it{down}. "
            f"Any of them is cut out without training. {told}"
        ).strip()
    return told


def _tiles(run: Run) -> str:
    rows = tables.members(run)
    tiles: list[tuple[str, str]] = []
    if rows and rows[0]["loss"] is not None:
        tiles.append((tables.decimals(rows[0]["loss"]), f"held-out loss of the parent, {rows[0]['name']}"))
    small = rows[-1] if len(rows) > 1 else None
    if small and small["loss"] is not None:
        tiles.append((tables.decimals(small["loss"]), f"loss of the smallest member, {small['name']}"))
    if small and small["ratio"]:
        tiles.append((tables.percent(small["ratio"]), f"of the parent's parameters in {small['name']}"))
    if small and small["recovered"] is not None:
        tiles.append((tables.percent(small["recovered"]), f"of the gap of {small['name']} closed by training"))
    if run.results and run.results.bigram_loss is not None:
        tiles.append((tables.decimals(run.results.bigram_loss), "loss of a bigram model"))
    if run.results and run.results.seconds:
        tiles.append((tables.seconds(sum(run.results.seconds.values())), "all phases"))
    inside = "".join(f'<div class="tile"><b>{safe(b)}</b><span>{safe(s)}</span></div>' for b, s in tiles)
    return f'<div class="tiles">{inside}</div>' if tiles else ""


def _section(title: str, words: str, body: str) -> str:
    lead = f"<p>{safe(words)}</p>" if words else ""
    return f"<section><h2>{safe(title)}</h2>{lead}{body}</section>"


def _titled(title: str, body: str) -> str:
    return f"<h3>{safe(title)}</h3>{body}" if body else ""


def _picture(name: str, pictures: Mapping[str, bytes], more: str = "") -> str:
    if name not in pictures:
        return ""
    title, words = WORDS[name]
    data = b64encode(pictures[name]).decode("ascii")
    image = f'<img alt="{safe(title)}: {safe(words)}" src="data:image/png;base64,{data}">'
    return _section(title, words, image + more)


def _members(run: Run) -> str:
    body = tables.members_table(run)
    if not body:
        return ""
    words = (
        "Parameters are exact counts. Memory is bf16 weights, KV cache and state of one sequence of 8,192 tokens. "
        "Loss is held-out nats per token; gap closed is the share of the way from the untrained cut to the parent."
    )
    return _section("Members", words, body + _titled("Accuracy by task", tables.tasks_table(run)))


def _notes(run: Run) -> str:
    if not run.notes:
        return ""
    items = "".join(f"<li>{safe(note)}</li>" for note in run.notes)
    return f'<section class="notes"><h2>Not in this report</h2><ul>{items}</ul></section>'


def _settings(run: Run) -> str:
    parts = [_titled("Time", tables.time_table(run))]
    if run.results:
        parts.append(_titled("Targets", tables.facts_table(run.results.targets)))
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
