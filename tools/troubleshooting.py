# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/troubleshooting.md from tools/troubleshooting.yaml.

`.venv/bin/python tools/troubleshooting.py > docs/troubleshooting.md`; a test compares, and holds every entry against
the lines that the package can say (`messages`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CATALOGUE = Path(__file__).with_suffix(".yaml")
CASES = ROOT / "tests" / "bad_input" / "cases.yaml"
HOLE = "…"
HEAD = """\
# Troubleshooting

Made from `tools/troubleshooting.yaml` by `tools/troubleshooting.py`; a test keeps it in step with the source.

A mistake that you can fix is one line and exit code 2:

```text
error: elastic.router.freeze_at: 2.0 is not allowed; a fraction of stage 1 from 0 to 1
```

First the field as you wrote it, or the file; then the value; then what would have been fine. In the lines below `…`
stands for whatever differs: search this page for a word of the fixed part. `nemo-elastic doctor` looks at the
environment and says what is wrong and what fixes it. A traceback is a bug of ours; please report it.

{tested} of the {lines} kinds of line below are provoked by the {cases} cases of bad input in
`tests/bad_input/cases.yaml`, which a test runs.
"""


@dataclass(frozen=True)
class Entry:
    """One cause and its lines.

    Attributes:
        says: the lines, with holes.
        means: why, and what to do, as Markdown.
        source: who says it where it is not the package: a file of the repository, or other software.
    """

    says: tuple[str, ...]
    means: str
    source: str | None = None

    @property
    def is_symptom(self) -> bool:
        """In our words, not in those of the software that misbehaves."""
        return self.source is not None and not (ROOT / self.source).is_file()


@dataclass(frozen=True)
class Group:
    """A section of the page."""

    title: str
    text: str | None
    entries: tuple[Entry, ...]


def read(path: Path = CATALOGUE) -> list[Group]:
    """Read the catalogue; a field that it should not have is an error."""

    def entry(says: list[str], means: str, **more: Any) -> Entry:
        source = more.pop("from", None)
        assert not more, f"{says[0]}: unknown fields {sorted(more)}"
        return Entry(tuple(says), means, source)

    def group(title: str, entries: list[dict[str, Any]], text: str | None = None) -> Group:
        return Group(title, text, tuple(entry(**e) for e in entries))

    return [group(**g) for g in yaml.safe_load(path.read_text(encoding="utf-8"))]


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split(HOLE))))


def matches(pattern: str, line: str) -> bool:
    """Whether a line with holes is one of those that a pattern stands for."""
    return _expression(pattern).fullmatch(line) is not None


def explains(pattern: str, line: str) -> bool:
    """Whether a line is one that a pattern stands for, said alone or after the name of a file."""
    return matches(pattern, line) or matches(f"{HOLE}: {pattern}", line)


def _shown(line: str, entry: Entry) -> str:
    if entry.is_symptom:
        return f"**{line}**"
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def page(groups: list[Group]) -> str:
    """The whole page, as Markdown."""
    said = [case["says"] for case in yaml.safe_load(CASES.read_text(encoding="utf-8"))]
    patterns = [p for group in groups for entry in group.entries if not entry.is_symptom for p in entry.says]
    tested = sum(any(explains(p, line) for line in said) for p in patterns)
    lines = [HEAD.format(tested=tested, lines=len(patterns), cases=len(said))]
    for group in groups:
        lines += [f"## {group.title}", ""]
        if group.text is not None:
            lines += [group.text, ""]
        for entry in group.entries:
            said = "  \n".join(_shown(line, entry) for line in entry.says)
            lines += [said, "", f":   {entry.means}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(read()), end="")
