# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of serving says of what it measured; it runs with `make bench ARGS=bench_serve`."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.serving import NAMES, _equal, missed

MIB = 2**20


@pytest.fixture
def results() -> dict[str, Any]:
    ratios = dict(zip(NAMES, (1.0, 0.97, 0.95), strict=True))
    return {
        "parameters": dict.fromkeys(NAMES, 1000), "dtype": "bfloat16", "version": "0.32.0",
        "memory": {"family": 104 * MIB, "large": 100 * MIB, "half": 60 * MIB, "quarter": 40 * MIB},
        "members": {n: {"tokens_per_second": 9.0, "alone": 9.0, "ratio": r, "equal": 1.0} for n, r in ratios.items()},
        "mixed": 0.8, "switch_ms": 1.25, "step_ms": 30.0,
    }  # fmt: skip


def test_targets(results: dict[str, Any]) -> None:
    assert missed(results) == []
    results["memory"]["family"] = 106 * MIB
    results["members"]["half"]["ratio"] = 0.94
    assert missed(results) == [
        "memory <= 1.05 x the largest alone: 1.060", "throughput of half >= 0.95 x its own folder: 0.94",
    ]  # fmt: skip


def test_tokens_are_compared_up_to_the_first_that_differs() -> None:
    assert _equal([[1, 2, 3, 4], [1, 2]], [[1, 9, 3, 4], [1, 2]]) == pytest.approx(3 / 6)
