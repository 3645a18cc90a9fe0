# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: what they hold their figures against, and that each can be run and has its table on a page."""

from __future__ import annotations

import re
from typing import Any

from benchmarks import serving
from benchmarks.__main__ import BENCHMARKS, TABLES
from benchmarks.bench_step import Ratio, verdicts
from tools.tables import SHOWN, pages

LINKED = re.compile(r"\(tables/(\w+)\.md\)")


def test_every_table_is_on_a_page() -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    named = {name for text in texts for name in (*(m[1] for m in SHOWN.finditer(text)), *LINKED.findall(text))}
    assert named >= set(BENCHMARKS) and all((TABLES / f"{name}.md").is_file() for name in named)


def test_a_step_is_held_against_the_share_of_parameters() -> None:
    def row(member: str, step: float, share: float) -> dict:
        each = Ratio(step, step - 0.01, step + 0.01)
        one = Ratio(1.0, 1.0, 1.0)
        return {"member": member, "parameters": share, "sliced / full step": each, "sliced / dense": one,
                "quantized / sliced": one}  # fmt: skip

    rows = [row("1.00", 1.0, 1.0), row("near", 0.579, 0.5), row("far", 0.7, 0.6), row("open", 0.685, 0.6)]
    *_, line = verdicts(rows)
    assert "missed at far" in line and "open at open" in line and "near" not in line


def test_targets_of_serving() -> None:
    ratios = dict(zip(serving.NAMES, (1.0, 0.97, 0.95), strict=True))
    results: dict[str, Any] = {
        "memory": {"family": 104, "large": 100, "half": 60, "quarter": 40},
        "members": {name: {"ratio": ratio} for name, ratio in ratios.items()},
    }
    assert serving.missed(results) == []
    results["memory"]["family"] = 106
    results["members"]["half"]["ratio"] = 0.94
    assert len(serving.missed(results)) == 2
