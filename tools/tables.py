# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Copy tables from docs/tables into the pages that show them: `python -m tools.tables`.

A page shows a table between `<!-- table NAME -->` and `<!-- end -->`. With `<!-- table NAME ROWS -->` it shows the
first rows and a link to the whole table.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "docs" / "tables"
#: name, number of rows, what stands there now
SHOWN = re.compile(r"<!-- table (\w+)(?: (\d+))? -->\n(.*?)<!-- end -->", re.DOTALL)


def pages() -> list[Path]:
    """Pages that may show a table."""
    docs = ROOT / "docs"
    return [ROOT / "README.md", *sorted(docs.glob("*.md")), *sorted(docs.glob("studies/*.md"))]


def shown(name: str, rows: int, page: Path) -> str:
    """A table, or its first rows with a link from the page to the rest; 0: every row."""
    path = TABLES / f"{name}.md"
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    more = [] if not rows or len(lines) <= rows + 2 else ["", f"[All rows]({os.path.relpath(path, page.parent)})"]
    return "\n".join([*(lines[: rows + 2] if more else lines), *more])


def filled(page: Path) -> str:
    """The text of a page with its tables as docs/tables has them."""

    def table(match: re.Match[str]) -> str:
        name, rows, _ = match.groups()
        head = match[0].partition("\n")[0]
        return f"{head}\n\n{shown(name, int(rows or 0), page)}\n\n<!-- end -->"

    return SHOWN.sub(table, page.read_text(encoding="utf-8"))


def fill() -> None:
    """Write the tables of every page."""
    for page in pages():
        page.write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    fill()
