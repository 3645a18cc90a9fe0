# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a page that is open in a browser must look like: nothing runs over, nothing is cut, every letter is legible."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

from PIL import Image

from tests.browser import Browser

WIDTHS = (390, 1280, 1920)
#: WCAG 2, level AA, for text of any size
CONTRAST = 4.5
#: pixels of a letter's height, at least
SMALLEST = 10

_SHOWN = """
const shown = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && e.getClientRects().length;
const label = e => `<${e.tagName} ${e.getAttribute('class') || ''}> ${(e.textContent || '').trim().slice(0, 60)}`;
const all = (root, what) =>
  [...document.querySelectorAll(root)].flatMap(r => [...r.querySelectorAll(what)]).filter(shown);
const boxes = e => e.closest('svg') || ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
"""
#: HTML elements that hide some of what is in them, and lines that stand outside the window; not in boxes that scroll
_CUT = """all(ROOT, '*').filter(e => !boxes(e) && getComputedStyle(e).overflowX != 'visible' && e.clientWidth &&
  e.scrollWidth > e.clientWidth + 1).map(label)"""
_OUTSIDE_WINDOW = """all(ROOT, '*').filter(e => !e.ownerSVGElement && [...e.childNodes].some(n => n.nodeType == 3 &&
  n.data.trim())).filter(e => { for (let p = e; p; p = p.parentElement) if (boxes(p)) return false;
  const r = document.createRange(); r.selectNodeContents(e); const b = r.getBoundingClientRect();
  return b.right > innerWidth + 1 || b.left < -1; }).map(label)"""
#: text of pictures that is partly outside its picture
_OUTSIDE = """all(ROOT, 'svg text').filter(t => { const a = t.getBoundingClientRect(),
  b = t.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1 ||
  a.top < b.top - 1 || a.bottom > b.bottom + 1; }).map(label)"""
#: pairs of text in one picture that lie on each other
_OVERLAP = """all(ROOT, 'svg').flatMap(svg => { const hits = [], ts = [...svg.querySelectorAll('text')].map(
  t => [t, t.getBoundingClientRect()]); for (let i = 0; i < ts.length; i++) for (let k = 0; k < i; k++) {
  const [s, a] = ts[i], [t, b] = ts[k]; if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.3 * Math.min(a.height, b.height))
  hits.push(label(s) + ' / ' + label(t)); } return hits; })"""
#: short words of tables that are broken over lines
_BROKEN = r"""all(ROOT, 'td, th').flatMap(cell => { const walk = document.createTreeWalker(cell, 4), hits = []; let n;
  while (n = walk.nextNode()) for (const m of n.data.matchAll(/(?<=^|\s)[\w.,%+]{2,20}(?=\s|$)/g)) {
  const r = document.createRange(); r.setStart(n, m.index); r.setEnd(n, m.index + m[0].length);
  if (new Set([...r.getClientRects()].map(b => Math.round(b.top))).size > 1) hits.push(m[0]); } return hits; })"""
#: where text stands, its colour and its size: [text, left, top, width, height, colour, pixels]
_TEXT = """all(ROOT, '*').filter(e => e.tagName != 'STYLE' && [...e.childNodes].some(
  n => n.nodeType == 3 && n.data.trim())).map(e => { const s = getComputedStyle(e), svg = e.ownerSVGElement;
  const range = document.createRange(); range.selectNodeContents(e);
  const b = svg ? e.getBoundingClientRect() : range.getBoundingClientRect();
  let [left, right] = [b.left, b.right];  // what of it is not scrolled away
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX != 'visible' && !svg) {
  const w = p.getBoundingClientRect(); left = Math.max(left, w.left); right = Math.min(right, w.right); }
  return [label(e), left + scrollX, b.top + scrollY, right - left, b.height, svg ? s.fill : s.color,
  parseFloat(s.fontSize) * (svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1)]; })
  .filter(t => t[3] > 1)"""
_HIDE = """{ const s = document.createElement('style'); s.textContent =
  '* { color: transparent !important; transition: none !important; } svg text { visibility: hidden; }';
  document.head.append(s); }"""


def ask(window: Browser, script: str, root: str = "body") -> Any:
    return window.run(f"(() => {{ {_SHOWN} const ROOT = {root!r}; return {script}; }})()")


def runs_over(window: Browser) -> str:
    """How far the document is wider than its window; empty where it is not."""
    wide, room = window.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return f"{wide} pixels in a window of {room}" if wide > room else ""


def flaws(window: Browser, root: str = "body") -> dict[str, Any]:
    """What is wrong with the open page, by kind; empty where nothing is. It shows no text afterwards."""
    seen: dict[str, Any] = {
        "runs over": runs_over(window),
        "cut": ask(window, _CUT, root),
        "outside the window": ask(window, _OUTSIDE_WINDOW, root),
        "outside its picture": ask(window, _OUTSIDE, root),
        "on each other": ask(window, _OVERLAP, root),
        "broken words": ask(window, _BROKEN, root),
    }
    texts = ask(window, _TEXT, root)
    assert len(texts) > 20, "a page without text"
    seen["too small"] = [(text, round(size, 1)) for text, *_, size in texts if size < SMALLEST]
    window.run(_HIDE)
    ground = Image.open(io.BytesIO(window.picture())).convert("RGB")
    seen["too faint"] = faint(ground, texts)
    return {kind: what for kind, what in seen.items() if what}


def faint(ground: Image.Image, texts: list[list[Any]]) -> list[tuple[str, float]]:
    """Texts that differ too little from what is behind them, with the contrast; `ground`: the page without text."""
    out = []
    for text, left, top, width, height, colour, _ in texts:
        box = (round(max(left, 0)), round(max(top, 0)), round(left + max(width, 1)), round(top + max(height, 1)))
        part = ground.crop(box)  # what is outside of the picture has no colour
        behind = Counter(part.get_flattened_data()).most_common(1)[0][0]
        value = contrast(tuple(map(float, colour[colour.index("(") + 1 : -1].split(",")[:3])), behind)
        if value < CONTRAST:
            out.append((text, round(value, 2)))
    return out


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Contrast of two colours (0 to 255 each channel) by WCAG 2: 1 to 21."""
    low, high = sorted(map(_luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
