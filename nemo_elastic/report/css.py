# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How the page looks, light and dark, on a phone and on a wide screen: one style sheet."""

from __future__ import annotations

from .palette import variables

STYLE = (
    f"""
:root {{ color-scheme: light dark; --line: #e2e7ec; --back: #f4f6f9; --accent: #0a5a94; --warn: #fff4e0;
  {variables(dark=False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --line: #2e3846; --back: #11161d; --accent: #7fc1ee; --warn: #3a2f17;
  {variables(dark=True)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 4px; }
h3 { font-size: 0.95rem; margin: 22px 0 6px; }
p { margin: 0 0 14px; color: var(--muted); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px;
  margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px;
  min-width: 0; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; color: var(--accent);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { color: var(--muted); font-size: 0.86rem; }
.plot svg { display: block; width: 100%; max-width: 900px; height: auto; margin: 0 auto; }
.plot text { font-family: inherit !important; }
.plot path, .plot use { stroke-linejoin: round; }
.plot .halo text { paint-order: stroke; stroke: var(--paper); stroke-width: 3.5px; stroke-linejoin: round; }
.narrow { display: none; }
.box { overflow-x: auto; background: linear-gradient(to right, var(--paper) 30%, transparent) left / 40px 100% local,
  linear-gradient(to left, var(--paper) 30%, transparent) right / 40px 100% local,
  linear-gradient(to right, var(--hatch), transparent) left / 10px 100% scroll,
  linear-gradient(to left, var(--hatch), transparent) right / 10px 100% scroll; background-repeat: no-repeat; }
table { border-collapse: collapse; font-size: 0.88rem; }
th { text-align: left; color: var(--muted); font-weight: 600; }
thead th { border-bottom: 2px solid var(--line); }
th, td { padding: 6px 28px 6px 0; vertical-align: top; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 4px; }
tbody th, td { border-bottom: 1px solid var(--line); }
td:first-child { font-weight: 600; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.long { white-space: normal; min-width: 15em; max-width: 30em; }
.endless { overflow-wrap: anywhere; }
.facts { width: 100%; }
.facts th { font-weight: 400; white-space: normal; }
.facts td { font-weight: 400; white-space: normal; width: 70%; min-width: 11em; overflow-wrap: anywhere; }
.notes { background: var(--warn); }
.notes li { overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; font-size: 1.2rem; }
footer { color: var(--muted); font-size: 0.85rem; margin-top: 24px; }
@media (max-width: 699px) {
  main { padding: 24px 12px 40px; }
  section { padding: 16px 14px; }
  .wide { display: none; }
  .narrow { display: block; }
  .narrow svg { max-width: 460px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  th, td { padding-right: 16px; }
  .long { min-width: 9em; }
  .tile b { font-size: 1.3rem; }
  thead th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
}
@media print { body { background: white; } section { break-inside: avoid; } }
"""
)
