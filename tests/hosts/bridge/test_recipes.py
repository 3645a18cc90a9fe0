# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Routing and a plan of recipes on Megatron-Bridge, and the tiny one from parent to members."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.formats.folders import open_source
from recipes.families import FAMILIES, family
from tests.hosts.bridge.recipes import recipe_of
from tests.workers import ROOT, work


def test_routing_is_read_from_what_is_built() -> None:
    from nemo_elastic.hosts.bridge.curriculum import routing_of
    from nemo_elastic.plan.activations import Routing

    model = recipe_of("30b_a3b").stock().model
    assert routing_of(model) == Routing("fp32", balanced=True, fused=True)
    model.moe_router_dtype, model.moe_permute_fusion = None, False
    model.moe_router_load_balancing_type, model.moe_aux_loss_coeff = ["none", "aux_loss"], [1.0, 0.0]
    assert routing_of(model) == Routing("bf16", balanced=False, fused=False)
    model.moe_aux_loss_coeff = [0.0, 1e-3]
    assert routing_of(model).balanced


def test_a_plan_is_made_of_a_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nemo_elastic.cli import main
    from nemo_elastic.plan.stages import PAPER

    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["plan", "--recipe", "bridge/nemotron_elastic_30b_a3b", "--stage", "2", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert not end.value.code and printed["parent"] == "nemotron_elastic_30b_a3b_bridge: nemotron-3-nano-30b-a3b"
    assert printed["stages"][0]["best"] == recipe_of("30b_a3b").layout(2, PAPER, 128, "h100").to_json()


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row.host == "bridge"])
def test_a_machine_without_bridge_plans_the_same_layouts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are then written by the plan alone."""
    from nemo_elastic.hosts.bridge import curriculum

    run = family(name).run_of("/parent", ["/data"], "/runs", ["/long"])
    built = {job: replace(one, task=None, stop=None) for job, one in family(name).described(run).items()}
    monkeypatch.setattr(curriculum, "installed", lambda: False)
    planned = {job: replace(one, task=None, stop=None) for job, one in family(name).described(run).items()}
    assert planned == built


@pytest.mark.slow(minutes=2)
def test_a_tiny_family_is_trained_and_cut(tmp_path: Path) -> None:
    said = work(
        "tests.support.bridge", ROOT / "recipes" / "tiny.py", "--recipe", "bridge/nemotron_elastic_tiny_experts",
        "--dir", tmp_path, "--scale", "0.05",
    )  # fmt: skip
    family = open_source(tmp_path / "family").family
    assert family is not None and [m.name for m in family] == ["1.8m", "1.2m", "0.8m"]
    for member in family:
        cut = open_source(tmp_path / "members" / member.name)
        assert cut.subnet.pattern == member.subnet.pattern, said[-2000:]
    steps = [json.loads(x) for x in (tmp_path / "stage2" / "checkpoints" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "step"] == [1, 2]
