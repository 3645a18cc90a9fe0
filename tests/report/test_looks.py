# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The report in a browser: on a phone, on a laptop and on a wide screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import MISSING, Browser, browser, find
from tests.looks import WIDTHS, flaws

#: a table of the settings, which a reader opens
SETTINGS = "document.querySelector('details table')"
needs_a_browser = pytest.mark.skipif(find() is None, reason=MISSING)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser(str(find())) as opened:
        yield opened


@needs_a_browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", ["small", pytest.param("large", marks=pytest.mark.long)])
def test_nothing_runs_over_and_everything_can_be_read(
    window: Browser, pages: dict[str, Path], run: str, width: int
) -> None:
    window.open(pages[run], width)
    assert window.run(f"{SETTINGS}.checkVisibility()") is False
    window.run("document.querySelector('summary').click()")
    assert window.run(f"{SETTINGS}.checkVisibility()") is True
    assert flaws(window) == {}


#: what `flaws` is to find -> a page that has it
FLAWED = {
    "runs over": "<div style='width: 700px'>wide</div>",
    "cut": "<div style='width: 50px; overflow: hidden; white-space: nowrap'>words that are longer</div>",
    "outside the window": "<p style='margin-left: -40px'>words</p>",
    "outside its picture": "<svg viewBox='0 0 100 40' width=300><text x=80 y=20 font-size=12>words</text></svg>",
    "on each other": "<svg viewBox='0 0 99 40' width=300><text y=20>one</text><text x=9 y=22>two</text></svg>",
    "broken words": "<table><tr><td style='width: 9px; overflow-wrap: anywhere'>letters</table>",
    "too small": "<svg viewBox='0 0 900 40' width=300><text y=20 font-size=12>one</text></svg>",
    "too faint": "<p style='color: #888; background: #fff'>words</p>",
}


@needs_a_browser
@pytest.mark.parametrize("flaw", [*FLAWED, "nothing"])
def test_a_flaw_is_seen(window: Browser, tmp_path: Path, flaw: str) -> None:
    head = "<!doctype html><meta name=viewport content='width=device-width'><body style='margin: 20px'>"
    fine = (
        "<p>fine</p>" * 21
        + "<div style='overflow-x: auto; width: 90px'><table><tr><td>words<td>words<td>words</table>"
    )
    page = tmp_path / "page.html"
    page.write_text(f"{head}{fine}</div>{FLAWED.get(flaw, '')}", encoding="utf-8")
    window.open(page, 390)
    assert set(flaws(window)) - {"outside the window"} == {flaw} - {"nothing", "outside the window"}
    window.open(page, 390)
    assert ("outside the window" in flaws(window)) == (flaw == "outside the window")
