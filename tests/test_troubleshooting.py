# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every error has its place on the page, and the page has no error that nothing says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nemo_elastic.errors import bad
from tools.messages import ROOT, messages
from tools.troubleshooting import HOLE, matches, page, read

GROUPS = read()
ENTRIES = [entry for group in GROUPS for entry in group.entries]
PATTERNS = [line for entry in ENTRIES if entry.source is None for line in entry.says]
LINES = sorted({message.text for message in messages()})


def test_the_page_is_the_catalogues() -> None:
    told = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert told == page(GROUPS), "run: .venv/bin/python tools/troubleshooting.py > docs/troubleshooting.md"


def test_every_error_has_an_entry() -> None:
    alone = {m.place: m.text for m in messages() if not any(matches(p, m.text) for p in PATTERNS)}
    assert alone == {}, "add a line to an entry of tools/troubleshooting.yaml, or a new entry"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_line_of_the_page_is_said_somewhere(pattern: str) -> None:
    said = [line for line in LINES if matches(pattern, line)]
    assert said, "no error says this any more"
    assert len(said) <= 12, "one line for so many errors explains none of them"


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.source is not None], ids=lambda e: e.says[0])
def test_lines_of_other_files_have_their_words(entry) -> None:
    if entry.is_symptom:
        assert "/" not in entry.source and "." not in entry.source, f"{entry.source}: no such file"
        return
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
    assert len({m.place for m in messages()}) > 0.95 * made


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
    found = {m.text for m in messages(tmp_path / "a")}
    assert found == {
        f"elastic.axes.{HOLE}: None is not allowed; one of {HOLE}, or null",
        f"size: {HOLE} is not allowed; at least 1",
    }
    assert matches(f"size: {HOLE} is not allowed; at least 1", str(bad("size", -3, "at least 1")))
    assert not matches(f"size: {HOLE} is not allowed; at least 1", str(bad("size", -3, "at least 2")))
