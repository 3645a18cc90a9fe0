# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which members the benchmark of steps with experts times, and what it holds them against."""

from __future__ import annotations

import pytest

from benchmarks.bench_step import Ratio, dense, shares, verdicts
from benchmarks.bench_step_experts import ABOVE, PARENT, members
from nemo_elastic.core.cost import counts


def test_members_have_the_shares_of_active_parameters_that_they_are_named_after() -> None:
    for name, member in members().items():
        actual = shares(PARENT, member)
        wanted = 1.0 if name == "half of the experts" else float(name)
        assert actual["active parameters"] == pytest.approx(wanted, abs=0.01)
        assert actual["parameters"] <= actual["active parameters"] + 1e-9
    assert shares(PARENT, members()["half of the experts"])["parameters"] < 0.6


def test_a_step_is_held_against_the_share_of_active_parameters() -> None:
    def row(member: str, step: float, active: float) -> dict:
        each = Ratio(step, step - 0.01, step + 0.01)
        one = Ratio(1.0, 1.0, 1.0)
        return {"member": member, "parameters": 0.1, "active parameters": active, "sliced / full step": each,
                "sliced / dense": one, "quantized / sliced": one}  # fmt: skip

    rows = [row("1.00", 1.0, 1.0), row("near", 0.599, 0.5), row("far", 0.72, 0.6), row("open", 0.705, 0.6)]
    *_, line = verdicts(rows, "active parameters", ABOVE)
    assert line.startswith("- sliced <= (share of active parameters + 0.1) x full step: ")
    assert "missed at far" in line and "open at open" in line and "near" not in line


def test_the_model_of_a_members_size_has_as_many_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shape alone: experts in hybrids are on another megatron-core."""
    monkeypatch.setattr("benchmarks.bench_step.build", lambda shape, elastic: shape)
    for member in members().values():
        shape = dense(PARENT, member)
        assert counts(shape, shape.full) == counts(PARENT, member)
