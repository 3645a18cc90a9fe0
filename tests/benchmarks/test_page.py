# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark can be run, and a page shows its table."""

from __future__ import annotations

import re
import subprocess
import sys

from benchmarks.__main__ import BENCHMARKS, ROOT, TABLES
from tools.tables import SHOWN, pages

LINKED = re.compile(r"\(tables/(\w+)\.md\)")


def test_every_benchmark_is_run_and_every_table_is_on_a_page() -> None:
    files = {p.stem for p in (ROOT / "benchmarks").glob("bench_*.py")} | {"serving"}
    assert files == {made.module for made in BENCHMARKS.values()}
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    named = {name for text in texts for name in (*(m[1] for m in SHOWN.finditer(text)), *LINKED.findall(text))}
    assert named >= set(BENCHMARKS) and all((TABLES / f"{name}.md").is_file() for name in named)


def test_a_benchmark_that_there_is_not_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "bench_nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "bench_nothing is not allowed; NAME is one of bench_step" in done.stderr
