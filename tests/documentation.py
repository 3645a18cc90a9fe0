# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the documentation's pages hold: fenced blocks, and the commands of the shell's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: the pages of the site; tables are parts of pages
SITE = sorted(path for path in DOCS.rglob("*.md") if DOCS / "tables" not in path.parents)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: a line of a block that the site replaces by a file of conf/
INCLUDED = re.compile(r'^--8<-- "(\w+\.yaml)"\n', re.MULTILINE)
SHELL = ("bash", "sh", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its file.
        language: the word behind the fence.
        text: what is inside.
        line: where it begins.
    """

    page: Path
    language: str
    text: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Its commands as words, without variables before them."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """Blocks of all pages, or of one."""
    fenced = []
    for path in [page] if page is not None else PAGES:
        text = path.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            if fence[1] in languages:
                inside = INCLUDED.sub(lambda line: (ROOT / "conf" / line[1]).read_text(encoding="utf-8"), fence[2])
                fenced.append(Block(path, fence[1], inside, text.count("\n", 0, fence.start()) + 1))
    return fenced


def named_files(page: Path) -> dict[str, str]:
    """YAML blocks of a page that say in their first line which file they are."""
    files = {}
    for block in blocks("yaml", page=page):
        named = re.match(r"# ([\w./-]+\.ya?ml)\n", block.text)
        if named:
            files[named[1]] = block.text
    return files
