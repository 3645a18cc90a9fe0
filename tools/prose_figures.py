# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Hold every figure in the documentation's prose against the tables that commands printed.

    .venv/bin/python tools/prose_figures.py [--write]

A figure is a number with a unit, a ratio, or a decimal. It may stand in prose in three ways:

- As a reference: `<!-- fig: bench_step; 81M; 0.50; sliced / dense -->1.07`. The number behind the comment is a cell of
  docs/tables/bench_step.md, rounded to the digits that the prose has. The keys between file and column are cells of
  its row, or how the line above its table begins; they must leave one row. `measured #2` is the second number of a
  cell. `--write` puts in what the tables say now; `python -m benchmarks --page` does so too and makes
  docs/benchmarks.md anew.
- As a number of a table, a code block or a source of its own section, rounded. Sources are in `prose_figures.yaml`.
- Declared in `prose_figures.yaml`, with a reason: what is no figure of ours, such as the paper's.

Ends with exit code 1 and a line for each figure that stands nowhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DECLARED = Path(__file__).parent / "prose_figures.yaml"

NUMBER = r"(?<![\w.,/])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?[kM]?(?![\w,]*\d)(?!\.\d)(?!\w)"
WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100, "thousand": 1000,
}  # fmt: skip
TIMES = r"(?:%|×|(?:per ?cent|times|ms|seconds?|minutes?|hours?|nats?|[KMGT]i?B)\b)"
UNIT = rf"(?:{TIMES}|(?:x(?!\s*\d)|s|days?|bytes|tokens?|steps?|[KMGTP]?FLOPs?|of(?=\s+\d))\b)"
#: a number, or a list of them before their unit
FIGURE = re.compile(
    rf"(?P<number>{NUMBER})(?=(?:(?:,|\s+(?:to|and|or)|\s*[–→-])\s*{NUMBER})*\s*(?P<unit>{UNIT}))"
    rf"|(?P<decimal>{NUMBER})(?:\s*(?P<after>%))?"
    rf"|\b(?P<word>{'|'.join(WORDS)})(?=\s+{TIMES})",
)
REFERENCE = re.compile(
    rf"<!--\s*fig:\s*(?P<where>(?:(?!-->).)*?)\s*-->(?P<number>{NUMBER}|\?)(?P<unit>\s*%)?", re.DOTALL
)
INCLUDED = re.compile(r'--8<-- "(\w+)\.md"|\{\{ (\w+) \}\}')
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
#: what is no prose: comments, code, targets of links, addresses
SILENT = re.compile(r"<!--.*?-->|(?P<ticks>`+).+?(?P=ticks)|\]\([^)]*\)|https?://\S+|<[a-z]+[^>]*>", re.DOTALL)


@dataclass(frozen=True)
class Number:
    """A number as it was written: its value, what its last digit is worth, and whether it is a percentage."""

    value: float
    digit: float
    percent: bool = False

    @classmethod
    def of(cls, text: str, percent: bool = False) -> Number:
        mantissa, _, exponent = text.rstrip("kM").replace(",", "").partition("e")
        unit = {"k": 1e3, "M": 1e6}.get(text[-1], 1.0) * 10.0 ** int(exponent or 0)
        return cls(float(mantissa) * unit, 10.0 ** -len(mantissa.partition(".")[2]) * unit, percent)

    def agrees_with(self, other: Number) -> bool:
        """Whether `other` rounds to this. One digit is what anything rounds to: it must be the very number.

        A percentage agrees with another, or with a share.
        """
        if other.percent > self.percent or (self.percent > other.percent and other.digit >= 1):
            return False
        near = 1e-6 if self.value < 10 * self.digit else 0.5 + 1e-6
        return abs((100 if self.percent > other.percent else 1) * other.value - self.value) <= near * self.digit


def numbers(text: str, percent: bool = False) -> list[Number]:
    return [Number.of(match[1], percent or bool(match[2])) for match in re.finditer(rf"({NUMBER})(\s?%)?", text)]


# ------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Table:
    """A table of Markdown and the line with a colon that stands above it."""

    heading: str
    header: list[str]
    rows: list[list[str]]


def tables(text: str) -> list[Table]:
    tables: list[Table] = []
    heading, inside = "", False
    for line in text.splitlines():
        if not line.startswith("|"):
            heading, inside = (line if line.endswith(":") else heading), False
            continue
        row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not inside:
            tables.append(Table(heading, row, []))
        elif not re.fullmatch(r"[\s:|-]+", line):
            tables[-1].rows.append(row)
        inside = True
    return tables


def numbers_of(text: str) -> list[Number]:
    """Numbers of a text; of its tables those in cells, percentages where the head says so; heads have names."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    cells = [(head, cell) for t in tables(text) for row in t.rows for head, cell in zip(t.header, row, strict=False)]
    return numbers(lines) + [n for head, cell in cells for n in numbers(cell, "%" in head)]


def cell(folder: Path, where: str) -> tuple[str, bool]:
    """The number that a reference means, as the table has it, and whether it is a percentage.

    Raises:
        LookupError: there is no such cell, or more than one.
    """
    file, *keys, column = (part.strip() for part in " ".join(where.split()).split(";"))
    path = folder / f"{file}.md"
    if not path.is_file():
        raise LookupError(f"docs/tables has no {file}.md")
    column, _, which = (part.strip() for part in column.partition("#"))
    fits = [
        (table.header, row)
        for table in tables(path.read_text(encoding="utf-8"))
        for row in table.rows
        if column in table.header and all(key in row or table.heading.startswith(key) for key in keys)
    ]
    if len(fits) != 1 or fits[0][0].count(column) != 1:
        raise LookupError(f"{len(fits)} rows of {file}.md have a column {column!r} and {', '.join(keys) or 'no keys'}")
    header, row = fits[0]
    matches = list(re.finditer(NUMBER + "%?", row[header.index(column)]))
    if len(matches) < int(which or 1):
        raise LookupError(f"{row[header.index(column)]!r} of {file}.md has no number {which or 1}")
    number = matches[int(which or 1) - 1][0]
    return number.rstrip("%"), "%" in number + column


# ------------------------------------------------------------------ pages


@dataclass(frozen=True)
class Page:
    """A page of prose.

    Attributes:
        name: as seen from the repository.
        path: its file.
        sources: files whose numbers it may name.
        declared: pieces of its prose -> why their numbers stand in no table.
    """

    name: str
    path: Path
    sources: list[str] = field(default_factory=list)
    declared: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class House:
    """Where tables and sources are, and what is no figure on any page."""

    root: Path
    everywhere: list[str]

    @property
    def tables(self) -> Path:
        return self.root / "docs" / "tables"


def written(root: Path) -> list[str]:
    """Names of the pages of docs/ and its folders; tables are included in pages."""
    docs = root / "docs"
    return sorted(str(p.relative_to(root)) for p in docs.rglob("*.md") if docs / "tables" not in p.parents)


def read(root: Path = ROOT, declared: Path = DECLARED) -> tuple[House, list[Page]]:
    """The pages of a repository; docs/benchmarks.md is made of benchmarks/page.md, which stands for it."""
    listed = yaml.safe_load(declared.read_text(encoding="utf-8")) or {}
    names = ["README.md", *written(root)]
    if (root / "benchmarks" / "page.md").is_file():
        names[names.index("docs/benchmarks.md")] = "benchmarks/page.md"
    more = listed.get("pages", {})
    if unknown := sorted(set(more) - set(names)):
        raise SystemExit(f"{declared.name}: {unknown[0]} is no page")
    pages = [Page(name, root / name, **more.get(name, {})) for name in names]
    return House(root, [entry["pattern"].replace(" ", r"\s+") for entry in listed.get("everywhere", [])]), pages


def blank(text: str, pattern: str | re.Pattern[str]) -> str:
    """The text with what fits turned into spaces; lines stay."""
    return re.sub(pattern, lambda match: re.sub(r"\S", " ", match[0]), text)


def plain(text: str) -> str:
    """The prose of a page: what tables, blocks, references and code have is blank."""
    for pattern in (FENCE, REFERENCE, SILENT, re.compile(r"^ *(?:\||--8<--|\{\{).*", re.MULTILINE)):
        text = blank(text, pattern)
    return text


def known(house: House, page: Page, section: str) -> list[Number]:
    """Numbers that a section may name: of its tables and blocks, and of the page's sources."""
    texts = ["\n".join(line for line in section.splitlines() if line.startswith("|")), *FENCE.findall(section)]
    files = [house.tables / f"{a or b}.md" for a, b in INCLUDED.findall(section)]
    files += [house.root / source for source in page.sources]
    return [n for text in (*texts, *(file.read_text(encoding="utf-8") for file in files)) for n in numbers_of(text)]


def sections(text: str) -> Iterator[tuple[int, str]]:
    """Parts of a page from one `## ` to the next, and where they begin."""
    starts = [0, *(match.start() for match in re.finditer(r"^## ", blank(text, FENCE), re.MULTILINE)), len(text)]
    return ((a, text[a:b]) for a, b in pairwise(starts))


def stands(match: re.Match[str], among: Iterable[Number]) -> bool:
    """Whether a figure is among numbers."""
    unit = (match["unit"] or "") + (match["after"] or "")
    text = match["number"] or match["decimal"] or str(WORDS[match["word"]])
    number = Number.of(text, unit.startswith(("%", "per")))
    return any(number.agrees_with(other) for other in among)


def is_figure(match: re.Match[str]) -> bool:
    """A whole number without a unit is none."""
    return match["decimal"] is None or "." in match["decimal"] or match["decimal"][-1] in "kM" or bool(match["after"])


def references(house: House, page: Page) -> Iterator[str]:
    """What is wrong with the references of a page."""
    text = page.path.read_text(encoding="utf-8")
    for match in REFERENCE.finditer(text):
        place = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
        try:
            right = fitting(match, *cell(house.tables, match["where"]))
        except LookupError as exc:
            yield f"{place}: {exc}"
            continue
        if right != match["number"]:
            yield f"{place}: {match['number']} is {right} in the table ({match['where']}); --write fixes it"
        if not re.search(r"\w.*$", text[: match.start()].rpartition("\n")[2].lstrip("-*> 0123456789.")):
            yield f"{place}: a reference begins the line, where Markdown takes it for a block"
    if bare := len(re.findall(r"<!--\s*fig:", text)) - len(REFERENCE.findall(text)):
        yield f"{page.name}: {bare} references have no number behind them"


def fitting(match: re.Match[str], right: str, percent: bool) -> str:
    """What belongs behind a reference: the table's number, in the digits that the prose has; all of them for a `?`."""
    share = bool(match["unit"]) and not percent
    has = len(right.partition(".")[2])
    digits = max(0, has - 2) if share else has
    if match["number"] != "?":
        digits = min(digits, len(match["number"].partition(".")[2]))
    if digits == has and not share:
        return right
    return f"{Number.of(right).value * (100 if share else 1):{',' if ',' in right else ''}.{digits}f}"


def strays(house: House, page: Page) -> Iterator[str]:
    """Figures of a page that stand nowhere, and declarations that declare nothing."""
    text = page.path.read_text(encoding="utf-8")
    prose = plain(text)
    for piece, why in page.declared.items():
        fits = re.compile(r"\s+".join(map(re.escape, piece.split())))
        if not why or not any(is_figure(f) for part in fits.findall(prose) for f in FIGURE.finditer(part)):
            yield f"{page.name}: {piece!r} is declared and has no figure, no reason, or is not there"
        prose = blank(prose, fits)
    for pattern in house.everywhere:
        prose = blank(prose, pattern)
    for start, section in sections(text):
        among = known(house, page, section)
        for match in FIGURE.finditer(prose, start, start + len(section)):
            if is_figure(match) and not stands(match, among):
                line = text.count("\n", 0, match.start()) + 1
                near = " ".join(text[max(0, match.start() - 40) : match.end() + 25].split())
                yield f"{page.name}:{line}: {match[0]} stands in no table of its section: … {near} …"


def write(house: House, pages: Iterable[Page]) -> None:
    """Put the tables' numbers behind all references."""

    def number(match: re.Match[str]) -> str:
        try:
            right = fitting(match, *cell(house.tables, match["where"]))
        except LookupError:  # `references` tells it
            return match[0]
        return match[0][: match.start("number") - match.start()] + right + (match["unit"] or "")

    for page in pages:
        text = page.path.read_text(encoding="utf-8")
        if (new := REFERENCE.sub(number, text)) != text:
            page.path.write_text(new, encoding="utf-8")


def problems(house: House, pages: Iterable[Page]) -> list[str]:
    """All that is wrong, a line each."""
    checks: tuple[Callable[[House, Page], Iterator[str]], ...] = (references, strays)
    return [line for page in pages for check in checks for line in check(house, page)]


def main(arguments: list[str]) -> None:
    if set(arguments) - {"--write"}:
        raise SystemExit(__doc__)
    house, pages = read()
    if arguments:
        write(house, pages)
    if wrong := problems(house, pages):
        print("\n".join(wrong))
        raise SystemExit(f"{len(wrong)} figures: refer to a cell, let the table's section tell it, say it without a "
                         f"figure, or declare it in tools/{DECLARED.name}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
