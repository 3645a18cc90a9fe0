# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two stages of elastic training through NeMo, once, in a process of its own; every test reads what it wrote down."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("training") / "run"
    work("tests.hosts.nemo.training_worker", folder)
    return json.loads((folder / "facts.json").read_text())


def test_stage_two_starts_with_exactly_what_stage_one_left(facts: dict[str, Any]) -> None:
    for part in ("weights", "router", "members", "optimizer", "moments"):
        assert facts["start2"][part] == facts["end1"][part], part
    assert int(facts["end1"]["moments"]) > 0


def test_training_moves_the_weights_and_never_the_teacher(facts: dict[str, Any]) -> None:
    assert facts["end1"]["weights"] != facts["start1"]["weights"]
    assert facts["end2"]["weights"] != facts["start2"]["weights"]
    assert len({facts[k]["teacher"] for k in ("start1", "end1", "start2", "end2")}) == 1


def test_the_router_learns_until_it_is_frozen_and_not_after(facts: dict[str, Any]) -> None:
    freeze = facts["steps"] // 2
    learned = facts["router1"]
    assert len(set(learned[:freeze])) > 1
    assert len(set(learned[freeze:])) == 1
    assert set(facts["router2"]) == {learned[-1]}
    assert min(facts["lr1"]) == 0.0 < max(facts["lr1"])


def test_soft_masks_first_then_slices_pitfall_12(facts: dict[str, Any]) -> None:
    """Before the freeze small budgets run gated, afterwards as the submodel itself; the parent always whole."""
    freeze = facts["steps"] // 2
    early = {kind for stage, step, kind in facts["choices"] if stage == 1 and step < freeze}
    late = {kind for stage, step, kind in facts["choices"] if stage == 2 or step >= freeze}
    assert "soft" in early
    assert "sliced" not in early
    assert "sliced" in late
    assert "soft" not in late


def test_every_micro_batch_draws_its_own_budget(facts: dict[str, Any]) -> None:
    per_step: dict[tuple[int, int], int] = {}
    for stage, step, _ in facts["choices"]:
        per_step[stage, step] = per_step.get((stage, step), 0) + 1
    assert set(per_step.values()) == {2}
    assert len(per_step) == 2 * facts["steps"]


def test_members_are_nested_meet_their_budgets_and_stay_the_same(facts: dict[str, Any]) -> None:
    from nemo_elastic.core.family import Subnet
    from nemo_elastic.plan.presets import preset

    parent = replace(preset("nemotron-h-tiny"), vocab=512).with_stripes(4)
    full, large, small = (Subnet.from_json(m, parent) for m in facts["members1"])
    assert full == parent.full
    assert small <= large <= full
    assert facts["members2"] == facts["members1"]
    for name, p in facts["frozen"]["report"]["projection"].items():
        assert p["cost"] <= p["target"], name
        assert name == "full" or p["cost"] >= 0.9 * p["target"]


def test_metrics_name_every_budget_and_are_finite(facts: dict[str, Any]) -> None:
    steps = [x for x in facts["metrics"] if x["kind"] == "step"]
    heldout = [x for x in facts["metrics"] if x["kind"] == "heldout"]
    assert len(steps) == facts["steps"]
    assert {k for x in steps for k in x if k.startswith("loss_")} == {"loss_full", "loss_large", "loss_small"}
    assert any("router_tau" in x and "entropy_hidden" in x for x in steps)
    assert all(math.isfinite(v) for x in steps for v in x.values() if isinstance(v, float))
    assert set(heldout[-1]["losses"]) == {"full", "large", "small"}


def test_only_the_model_is_saved(facts: dict[str, Any]) -> None:
    assert facts["saved"] == ["decoder", "elastic", "embedding", "output_layer"]
