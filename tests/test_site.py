# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation in a browser: on a phone, on a laptop and on a wide screen, light and dark."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import MISSING, Browser, browser, find
from tests.documentation import DOCS, ROOT, SITE
from tests.looks import WIDTHS, flaws, runs_over

pytest.importorskip("mkdocs", reason="the documentation's tools are not installed; the extra `docs` brings them")
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.skipif(find() is None, reason=MISSING)]

#: those with the widest tables and the longest lines
WIDEST = ("index", "studies/index", "studies/baselines", "benchmarks", "config", "troubleshooting", "method")
PAGES = [path.relative_to(DOCS).with_suffix("").as_posix() for path in SITE]

#: those with pictures
PICTURED = [
    page for page in PAGES if re.search(r"!\[.*\]\(.*images/", (DOCS / f"{page}.md").read_text(encoding="utf-8"))
]


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


@pytest.mark.parametrize("width", [390, 1280])
def test_the_copy_button_covers_no_code(window: Browser, site: Path, width: int) -> None:
    window.open(site / "index.html", width)
    gaps = window.run("""[...document.querySelectorAll('pre > .md-code__nav')].map(nav =>
      nav.getBoundingClientRect().left - nav.parentElement.querySelector('code').getBoundingClientRect().right)""")
    assert len(gaps) >= 4 and min(gaps) >= 0


@pytest.mark.parametrize("page", PICTURED)
def test_pictures_have_a_dark_pages_ground_and_scroll_on_a_phone(window: Browser, site: Path, page: str) -> None:
    boxes = """[...document.querySelectorAll('.md-content p > img')].map(img => {
      const r = img.getBoundingClientRect(), p = img.parentElement;
      return [r.left + scrollX, r.top + scrollY, r.width, p.scrollWidth, p.clientWidth]; })"""
    window.open(site / f"{page}.html", 1280, dark=True)
    shown = Image.open(io.BytesIO(window.picture())).convert("RGB")
    for left, top, *_ in window.run(boxes):
        inside, outside = (shown.getpixel((round(left) + x, round(top) + 4)) for x in (4, -8))
        assert max(abs(a - b) for a, b in zip(inside, outside, strict=True)) < 6
    window.open(site / f"{page}.html", 390)
    phone = window.run(boxes)
    assert phone and all(width >= 620 and inner >= width > outer for _, _, width, inner, outer in phone)


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
