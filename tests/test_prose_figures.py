# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`tools/prose_figures.py` finds the figure that no table has, and no page of the documentation has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documentation import ROOT
from tools import prose_figures as pf

STEP = """6M parameters:

| member | sliced s | sliced / dense | of it % |
|---|---|---|---|
| 1.00 | 1.054 | 0.955 (0.93-1.15) | 12.5 |
| 0.50 | 0.724 | 1.062 (0.97-1.11) | 40 |

81M parameters:

| member | sliced s | sliced / dense | of it % |
|---|---|---|---|
| 0.50 | 2.367 | 1.073 (0.98-1.15) | 41 |
"""
SIZES = """| what | |
|---|---|
| peak | 1,123 MiB, 1.016 x |
| head | 74% |
"""


@pytest.fixture
def problems_of(tmp_path: Path):
    """What the tool says of a page of these words, beside two tables."""
    folder = tmp_path / "docs" / "tables"
    folder.mkdir(parents=True)
    (folder / "step.md").write_text(STEP)
    (folder / "sizes.md").write_text(SIZES)
    (tmp_path / "README.md").write_text("Nothing.\n")
    (tmp_path / "conf.yaml").write_text("share: 0.15\n")
    page, declared = tmp_path / "docs" / "page.md", tmp_path / "declared.yaml"

    def tell(words: str, more: str = "{}", write: bool = False) -> list[str] | str:
        page.write_text(words)
        declared.write_text(
            f"everywhere: [{{pattern: 'NeMo \\d\\.\\d', why: releases}}]\npages: {{docs/page.md: {more}}}\n"
        )
        house, pages = pf.read(tmp_path, declared)
        if not write:
            return pf.problems(house, pages)
        pf.write(house, pages)
        return page.read_text()

    return tell


# ------------------------------------------------------------------ figures without a reference


@pytest.mark.parametrize(
    "words",
    [
        "It takes 1.07 times as long.",
        "It takes 1.1 s.",
        "It takes 12 % of it, or 96 % of the time.",
        "It takes 0.724 s, 2.4 s and 1.05 s.",
        "It takes 74 %.",
        "It has 8 layers on two cores, TP 4 and 12B.",
        "It needs NeMo\n2.7.",
        "It has `lr: 3.3` and [a link](page-7.7.md), https://x.y/9.9 and 1.2.3.",
    ],
)
def test_a_figure_may_round_what_a_table_of_its_section_says(problems_of, words: str) -> None:
    assert problems_of(f'## A\n\n--8<-- "step.md"\n\n--8<-- "sizes.md"\n\n{words}\n') == []


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("It takes 1.08 times as long.", "1.08"),
        ("It takes 1.06 and 1.09.", "1.09"),
        ("It takes 73 %.", "73"),
        ("It takes 2 s.", "2"),
        ("It takes 7 to 41 %.", "7"),
        ("It takes ten minutes.", "ten"),
        ("It has 5.2M parameters.", "5.2M"),
        ("It has read 61k tokens.", "61k"),
        ("It solves 3 of 96.", "3"),
        ("It is 12.55 %.", "12.55"),
    ],
)
def test_a_figure_that_no_table_has_is_reported(problems_of, words: str, wrong: str) -> None:
    (line,) = problems_of(f'## A\n\n--8<-- "step.md"\n\n--8<-- "sizes.md"\n\n{words}\n')
    assert line.startswith(f"docs/page.md:7: {wrong} stands in no table of its section")


def test_another_sections_table_does_not_count(problems_of) -> None:
    (line,) = problems_of('## A\n\n--8<-- "step.md"\n\n## B\n\nIt takes 1.062 times as long.\n')
    assert line.startswith("docs/page.md:7: 1.062")


def test_names_in_the_head_of_a_table_are_no_figures(problems_of) -> None:
    assert len(problems_of("| loss at 72 % |\n|---|\n| 0.5 |\n\nIt is 72 %.\n")) == 1


def test_pages_in_folders_are_read_and_the_tables_are_not(problems_of, tmp_path: Path) -> None:
    (tmp_path / "docs" / "studies").mkdir()
    (tmp_path / "docs" / "studies" / "one.md").write_text("# One\n\nIt takes 1.08 times as long.\n")
    (line,) = problems_of("Nothing.\n")
    assert line.startswith("docs/studies/one.md:3: 1.08 stands in no table")


def test_a_source_tells_settings_and_a_declaration_its_piece_alone(problems_of) -> None:
    words = "In 15 % of\nthe steps; the paper has 360 times."
    assert len(problems_of(words)) == 2
    assert problems_of(words, '{sources: [conf.yaml], declared: {"has 360 times": the paper}}') == []
    (line,) = problems_of(f"{words} And 361 times.", '{sources: [conf.yaml], declared: {"has 360 times": the paper}}')
    assert "361 stands in no table" in line


@pytest.mark.parametrize("piece", ["has 370 times", "the paper"])
def test_a_declaration_of_nothing_is_reported(problems_of, piece: str) -> None:
    (line,) = problems_of("The paper has it; the paper says so.", f'{{declared: {{"{piece}": the paper}}}}')
    assert repr(piece) in line


# ------------------------------------------------------------------ references


def reference(where: str, number: str) -> str:
    return f"It takes <!-- fig: {where} -->{number} of it.\n"


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("step; 81M; 0.50; sliced / dense", "1.073"),
        ("step; 81M; 0.50; sliced / dense", "1.07"),
        ("step; 6M; 0.50; of it %", "40 %"),
        ("step; 1.00; of it %", "12 %"),
        ("step; 1.00; sliced / dense #3", "1.15"),
        ("step; 1.00; sliced / dense", "96 %"),
        ("sizes; peak;", "1,123 MiB"),
        ("sizes; peak; #2", "1.016"),
        ("sizes;\nhead;", "74 %"),
    ],
)
def test_a_reference_agrees_and_is_left_alone(problems_of, where: str, number: str) -> None:
    words = reference(where, number)
    assert problems_of(words) == []
    assert problems_of(words, write=True) == words


@pytest.mark.parametrize(
    ("where", "number", "right"),
    [
        ("step; 81M; 0.50; sliced / dense", "1.062", "1.073"),
        ("step; 81M; 0.50; sliced / dense", "1.1", "1.1"),
        ("step; 81M; 0.50; sliced / dense", "1.06", "1.07"),
        ("step; 81M; 0.50; sliced / dense", "?", "1.073"),
        ("sizes; peak;", "1,106", "1,123"),
        ("sizes; peak;", "99", "1,123"),
        ("sizes; head;", "72 %", "74 %"),
        ("step; 1.00; sliced / dense", "95 %", "96 %"),
    ],
)
def test_write_puts_in_what_the_table_says(problems_of, where: str, number: str, right: str) -> None:
    if number != right:
        (line,) = problems_of(reference(where, number))
        assert line.startswith(f"docs/page.md:1: {number.rstrip(' %')} is {right.rstrip(' %')} in the table")
    assert problems_of(reference(where, number), write=True) == reference(where, right)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nothing; 0.50; sliced s", "docs/tables has no nothing.md"),
        ("step; 0.50; sliced s", "2 rows of step.md have a column 'sliced s' and 0.50"),
        ("step; 0.49; sliced s", "0 rows of step.md"),
        ("step; 1.00; masked s", "0 rows of step.md"),
        ("step; 1.00; sliced s #2", "'1.054' of step.md has no number 2"),
    ],
)
def test_a_reference_to_no_cell_is_reported_and_not_written(problems_of, where: str, says: str) -> None:
    words = reference(where, "1.0")
    (line,) = problems_of(words)
    assert line.startswith("docs/page.md:1: ") and says in line
    assert problems_of(words, write=True) == words


def test_a_reference_without_a_number_or_at_the_start_of_a_line_is_reported(problems_of) -> None:
    (line,) = problems_of(
        "It takes <!-- fig: step; 1.00; sliced s --> long, <!-- fig: step; 1.00; sliced s -->1.054.\n"
    )
    assert "1 references have no number behind them" in line
    (line,) = problems_of("- <!-- fig: step; 1.00; sliced s -->1.054 it takes.\n")
    assert "begins the line" in line


# ------------------------------------------------------------------ the documentation itself


def test_every_figure_of_the_documentation_stands_in_a_table() -> None:
    house, pages = pf.read()
    assert {"README.md", "benchmarks/page.md", "docs/studies/baselines.md"} <= {page.name for page in pages}
    assert pf.problems(house, pages) == []


def test_make_docs_looks_for_them() -> None:
    _, _, target = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndocs:")
    assert "tools/prose_figures.py" in target.partition("\n\n")[0]
