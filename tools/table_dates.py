# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""When the tables of docs/tables were made; and a hook of mkdocs that says so below each.

`.venv/bin/python tools/table_dates.py` dates every table that has changed since it was dated; a test fails where one
has. Tables that a test holds to the code have no date: they are of today.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parents[1] / "docs" / "tables"
DATES = TABLES / "dates.json"
#: equal to what the code says today, by a test
HELD = {"data_modules", "house", "plan_stage2", "recipes", "recipes_bridge", "status", "status_layouts",
        "stock_bridge", "stock_nemo"}  # fmt: skip
#: a page's line that a table takes the place of
INCLUDED = re.compile(r'^( *)--8<-- "(\w+)\.md"$', re.MULTILINE)


def dated() -> dict[str, dict[str, str]]:
    """Table -> the day it was made, and the digest of its text of then."""
    return dict(json.loads(DATES.read_text()))


def today(known: Mapping[str, Mapping[str, str]], day: str, tables: Path = TABLES) -> dict[str, dict[str, str]]:
    """The same for the tables as they are; those that have changed since were made on `day`."""
    now = {}
    for path in sorted(tables.glob("*.md")):
        if path.stem not in HELD:
            digest, before = sha256(path.read_bytes()).hexdigest()[:12], known.get(path.stem, {})
            now[path.stem] = {"made": before["made"] if before.get("digest") == digest else day, "digest": digest}
    return now


def write() -> None:
    """Date what has changed, today."""
    DATES.write_text(json.dumps(today(dated(), date.today().isoformat()), indent=1) + "\n")


def caption(name: str, inset: str = "") -> str:
    """The line below a table; empty where it has no date."""
    known = dated().get(name)
    return f"\n\n{inset}Made on {known['made']}.\n{inset}{{ .made }}" if known else ""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with each page."""
    return INCLUDED.sub(lambda match: match[0] + caption(match[2], match[1]), markdown)


if __name__ == "__main__":
    write()
