# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Training in bf16, as on GPUs: the same losses as in float32; with a router it is saved and goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bf16") / "run"
    work("tests.hosts.nemo.bf16_worker", folder)
    return json.loads((folder / "facts.json").read_text())


def test_bf16_trains_as_float32_does(facts: dict[str, Any]) -> None:
    single, half = facts["single"], facts["half"]
    assert (single["hidden"], half["hidden"]) == (["torch.float32"], ["torch.bfloat16"])
    assert (single["weights"], half["weights"]) == ("torch.float32", "torch.bfloat16")
    assert half["losses"] == pytest.approx(single["losses"], rel=5e-3)
    assert half["norms"] == pytest.approx(single["norms"], rel=5e-2)


def test_a_router_beside_bf16_weights_is_saved_and_goes_on(facts: dict[str, Any]) -> None:
    """In a run that stops after two of three steps: bit for bit as without the stop, weights, moments and router."""
    whole, stopped = facts["whole"], facts["stopped"]
    assert len(whole["losses"]) == 3
    assert stopped["losses"] == whole["losses"]
    assert stopped["state"] == whole["state"]
    kinds, largest = zip(*whole["router"].values(), strict=True)
    assert set(kinds) == {"torch.float32"}
    assert min(largest) > 0


def test_three_budgets_a_micro_batch_from_an_int8_teacher(facts: dict[str, Any]) -> None:
    """Every step trains every budget, and its loss is their mean; nothing of it leaves the range of the plain run."""
    several = facts["several"]
    assert several["hidden"] == ["torch.bfloat16"]
    assert len(several["losses"]) == 3
    logged = several["budgets"]
    assert len(logged) == 3
    for budgets in logged:
        assert set(budgets) == {"loss_full", "loss_large", "loss_small"}
        mean = sum(budgets.values()) / 3
        assert any(loss == pytest.approx(mean, rel=1e-5) for loss in several["losses"])
    # before the first update the whole model is its own teacher, up to the rounding of the teacher's weights
    assert logged[0]["loss_full"] == pytest.approx(facts["half"]["budgets"][0]["loss_full"], rel=3e-2)
    assert several["losses"] == pytest.approx(facts["half"]["losses"], rel=0.1)
