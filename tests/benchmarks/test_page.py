# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md is made of its words and of the tables that the benchmarks printed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.__main__ import APART, BENCHMARKS, ROOT, page


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page(), "run python -m benchmarks --page"


def test_every_benchmark_is_run_and_every_table_is_on_the_page() -> None:
    files = {p.stem for p in (ROOT / "benchmarks").glob("bench_*.py")}
    words = (ROOT / "benchmarks" / "page.md").read_text()
    assert files == {*BENCHMARKS, *APART}
    for name in files:
        assert f"{{{{ {name} }}}}" in words


@pytest.mark.parametrize(("name", "message"), [("bench_nothing", "one of bench_step"), *APART.items()])
def test_a_benchmark_that_it_cannot_run_is_refused(name: str, message: str) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{name} is not allowed; {message}" in done.stderr


def test_a_target_makes_the_table_of_each_benchmark_apart() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, target in APART.items():
        rule = makefile.partition(f"\n{target.removeprefix('make ')}: ")[2].partition("\n\n")[0]
        assert f"benchmarks.{name} " in rule and f"--markdown docs/tables/{name}.md" in rule
