# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmark and study of latencies: members that were not measured, pairs that take as long, tables of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bench_latency
from benchmarks.study import latency
from benchmarks.study.grounds import Ground, fresh
from benchmarks.study.problems import AXES, BATCH, LENGTH, LR, PARENT, batches
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.latency import LatencyTable
from nemo_elastic.profile.measure import widths_of
from nemo_elastic.profile.roofline import on_paper

GROUND = Ground(fresh(0), AXES, batches, LR, "answers")


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    block = ElasticConfig.from_dict({"budgets": [{"name": "any", "ratio": 0.5}], "axes": AXES})
    return on_paper(PARENT, widths_of(PARENT, block.resolve_axes(PARENT), 3), latency.WORK, "h100")


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
    assert "| runtime | 300M (the parent) | 16 | 1536 | 100.0 ms | 104.0 ± 1.0 ms | -3.8% |" in bench_latency.table(
        {"runtime": part}
    )
    far = part | {"rows": [row, row | {"decode": [60.0, 50.0, 1.0]}]}
    assert bench_latency.missed({"runtime": far}) == ["runtime: worst 20.0%"]


def test_a_member_is_distilled_for_what_it_is_given(tmp_path: Path) -> None:
    run = latency.Distilling(GROUND, 0, tmp_path, {"ratio": 0.4})
    assert run.train(2 * BATCH * LENGTH * run.token) == 2
    assert run.spent == pytest.approx(2 * BATCH * LENGTH * run.token)


@pytest.mark.slow
def test_a_pair_takes_no_longer_than_its_share_and_the_other_uses_the_most_parameters(
    table: LatencyTable, tmp_path: Path
) -> None:
    pair = latency.pair(GROUND, table, 0.7, 0, tmp_path)
    most = 0.7 * table.milliseconds(PARENT, PARENT.full)
    times = {name: table.milliseconds(PARENT, run.member) for name, run in pair.items()}
    assert all(ms <= most for ms in times.values()) and times[latency.BY_TIME] > 0.85 * most
