# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every error has its place on the page, and the page has no error that nothing says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from nemo_elastic.errors import bad
from tools.messages import ROOT, Message, messages
from tools.troubleshooting import HOLE, matches, page, read

GROUPS = read()
ENTRIES = [entry for group in GROUPS for entry in group.entries]
PATTERNS = [line for entry in ENTRIES if entry.source is None for line in entry.says]


@cache
def said_here() -> tuple[Message, ...]:
    """What the package can say; reading all of it takes seconds."""
    return tuple(messages())


def test_the_page_is_the_catalogues() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert text == page(GROUPS), "run: .venv/bin/python tools/troubleshooting.py > docs/troubleshooting.md"


def test_every_error_has_an_entry() -> None:
    alone = {m.place: m.text for m in said_here() if not any(matches(p, m.text) for p in PATTERNS)}
    assert alone == {}, "add a line to an entry of tools/troubleshooting.yaml, or a new entry"


def test_every_line_of_the_page_is_said_somewhere() -> None:
    lines = {message.text for message in said_here()}
    counts = {pattern: sum(matches(pattern, line) for line in lines) for pattern in PATTERNS}
    assert [p for p, count in counts.items() if count == 0] == [], "no error says this any more"
    assert [p for p, count in counts.items() if count > 12] == [], "so many errors: the line explains none of them"


def test_lines_of_other_files_have_their_words() -> None:
    for entry in [e for e in ENTRIES if e.source is not None]:
        if entry.is_symptom:
            assert "/" not in entry.source and "." not in entry.source, f"{entry.source}: no such file"
            continue
        text = (ROOT / entry.source).read_text(encoding="utf-8")
        for line in entry.says:
            pieces = [piece for piece in line.removeprefix("error: ").split(HOLE) if re.search(r"\w", piece)]
            assert pieces and all(piece.strip() in text for piece in pieces), line


def test_no_line_is_in_two_places() -> None:
    said = [line for entry in ENTRIES for line in entry.says]
    assert len(said) == len(set(said))


def test_every_call_is_read() -> None:
    """None is lost on the way: each place that makes an error gives a line, or only words another error anew."""
    made = 0
    for path in (ROOT / "nemo_elastic").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("bad", "ElasticError"):
                made += 1
    # errors.py itself, lines that are holes alone, and functions that hand their arguments on: few
    assert len({m.place for m in said_here()}) > 0.95 * made


def test_lines_are_read_as_they_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text(
        "WHERE = 'elastic.axes'\n"
        "def positive(name, value, allowed='above 0'):\n"
        "    raise bad(name, value, allowed)\n"
        "def check(x, y):\n"
        "    why = f'one of {y}, ' + 'or null'\n"
        "    raise bad(f'{WHERE}.{x}', None, why)\n"
        "def more(x, exc):\n"
        "    positive('size', x, 'at least 1')\n"
        "    raise ElasticError(f'{x}: {exc}')\n"
    )
    actual = {m.text for m in messages(tmp_path / "a")}
    assert actual == {
        f"elastic.axes.{HOLE}: None is not allowed; one of {HOLE}, or null",
        f"size: {HOLE} is not allowed; at least 1",
    }
    assert matches(f"size: {HOLE} is not allowed; at least 1", str(bad("size", -3, "at least 1")))
    assert not matches(f"size: {HOLE} is not allowed; at least 1", str(bad("size", -3, "at least 2")))
