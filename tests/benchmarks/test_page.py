# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md is made of its words and of the tables that the benchmarks printed."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.__main__ import ROOT, page


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page(), "run python -m benchmarks --page"


def test_a_benchmark_that_there_is_not_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "bench_nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "bench_nothing is not allowed; NAME is one of bench_step" in done.stderr
