# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of steps holds its members against."""

from __future__ import annotations

import pytest

from benchmarks.bench_step import PARENT, Ratio, dense, members, verdicts
from nemo_elastic.core.cost import parameters


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
