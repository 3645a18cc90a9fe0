# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation in a browser: on a phone, on a laptop and on a wide screen, light and dark."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import MISSING, Browser, browser, find
from tests.documentation import DOCS, ROOT, SITE
from tests.looks import WIDTHS, flaws, runs_over

pytest.importorskip("mkdocs", reason="the documentation's tools are not installed; the extra `docs` brings them")
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.skipif(find() is None, reason=MISSING)]

#: those with the widest tables and the longest lines
WIDEST = ("index", "studies/index", "studies/baselines", "benchmarks", "config", "troubleshooting", "method")
PAGES = [path.relative_to(DOCS).with_suffix("").as_posix() for path in SITE]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser(str(find())) as opened:
        yield opened


SEARCH = """(async () => {
  document.querySelector('[data-md-toggle=search]').click();
  const query = document.querySelector('.md-search__input'), until = Date.now() + 60000;
  query.focus(); query.value = 'straight-through'; query.dispatchEvent(new Event('keyup'));
  let hits = [];
  while (!hits.length && Date.now() < until) {
    await new Promise(done => setTimeout(done, 50));
    hits = [...document.querySelectorAll('.md-search-result__link')].map(link => link.href);
  }
  return hits;
})()"""


@pytest.mark.parametrize("page", ["index", "studies/shapes"])
def test_search_works_from_the_disk(site: Path, page: str) -> None:
    with browser(str(find()), reads=False) as window:
        window.open(site / f"{page}.html", 1280)
        hits = window.run(SEARCH)
    paths = [hit.partition("?")[0].partition("#")[0] for hit in hits]
    assert (site / "method.html").as_uri() in paths


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|link rel="stylesheet")[^>]* (?:src|href)="?(?:https?:)?//""")
    assert [page.name for page in site.rglob("*.html") if loads.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_is_wider_than_its_window(window: Browser, site: Path, page: str) -> None:
    wide = {}
    for width in WIDTHS:
        window.open(site / f"{page}.html", width)
        wide[width] = runs_over(window)
    assert wide == dict.fromkeys(WIDTHS, "")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_widest_pages_can_be_read(window: Browser, site: Path, width: int, dark: bool) -> None:
    seen = {}
    for page in WIDEST:
        window.open(site / f"{page}.html", width, dark)
        scheme = window.run("document.body.getAttribute('data-md-color-scheme')")
        assert scheme == ("slate" if dark else "default")
        seen[page] = flaws(window, ".md-content")
    assert {page: what for page, what in seen.items() if what} == {}
