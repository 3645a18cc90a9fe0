# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: what they hold their figures against, and that each can be run and has its table on a page."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import bench_latency, serving
from benchmarks.__main__ import BENCHMARKS, ROOT, TABLES
from benchmarks.bench_step import PARENT, Ratio, dense, members, verdicts
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.profile.measure import widths_of
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


def test_a_step_is_held_against_the_share_of_parameters() -> None:
    def row(member: str, step: float, share: float) -> dict:
        each = Ratio(step, step - 0.01, step + 0.01)
        one = Ratio(1.0, 1.0, 1.0)
        return {"member": member, "parameters": share, "sliced / full step": each, "sliced / dense": one,
                "quantized / sliced": one}  # fmt: skip

    rows = [row("1.00", 1.0, 1.0), row("near", 0.579, 0.5), row("far", 0.7, 0.6), row("open", 0.685, 0.6)]
    *_, line = verdicts(rows)
    assert line.startswith("- sliced <= (share of parameters + 0.08) x full step: ")
    assert "missed at far" in line and "open at open" in line and "near" not in line


def test_the_model_of_a_members_size_has_as_many_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.bench_step.build", lambda shape, elastic: shape)
    for member in members().values():
        shape = dense(PARENT, member)
        assert parameters(shape, shape.full) == parameters(PARENT, member)


def test_members_of_the_benchmark_have_widths_that_the_table_lacks() -> None:
    parent, axes = bench_latency.PARENT, bench_latency.axes()
    measured = widths_of(parent, axes, 3)
    members = bench_latency.left_out()
    assert len(set(members)) == bench_latency.MEMBERS
    for member in members:
        assert member.hidden not in measured["mlp"]["hidden"]
        assert not set(member.widths("ffn")) & set(measured["mlp"]["ffn"])
        assert len(member.layers) in axes[DEPTH].choices
    assert len({len(m.layers) for m in members}) > 1 and len({m.hidden for m in members}) > 1


def test_the_benchmark_misses_its_targets_where_predictions_are_far() -> None:
    row = {
        "parameters": 3e8,
        "layers": 16,
        "hidden": 1536,
        "prefill": [100.0, 104.0, 1.0],
        "decode": [50.0, 50.0, 1.0],
    }
    part = {"seconds": 60, "entries": 27, "versions": {"torch": "2"}, "hardware": "this", "rows": [row, row]}
    assert bench_latency.missed({"runtime": part}) == []
    far = part | {"rows": [row, row | {"decode": [60.0, 50.0, 1.0]}]}
    assert bench_latency.missed({"runtime": far}) == ["runtime: worst 20.0%"]


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


def test_tokens_are_compared_up_to_the_first_that_differs() -> None:
    assert serving._equal([[1, 2, 3, 4], [1, 2]], [[1, 9, 3, 4], [1, 2]]) == pytest.approx(3 / 6)
