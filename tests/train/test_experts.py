# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family with experts in plain torch, the whole way: ranked, sorted, routed, frozen, trained on slices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import verify
from nemo_elastic.train.members import Members
from nemo_elastic.train.metrics import step_facts_of
from nemo_elastic.train.training import FamilyTraining
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT
from tests.support.expected import expected_member
from tests.train.trained import Trained, train_family

BLOCK = {
    "budgets": [
        {"name": "full"},
        {"name": "large", "ratio": 0.8},
        {"name": "small", "active_params": 6500, "ratio": 0.7},
    ],
    "axes": {
        "hidden": [16, 12],
        "depth": [5, 4],
        "experts": {"choices": [8, 6, 4], "per_layer": True},
        "expert_ffn": {"choices": [12, 8, 4], "per_layer": True},
        "shared_ffn": [20, 12],
        "latent": [10, 6],
    },
    "importance": {"samples": 8, "depth_samples": 2},
    "shapes": "router",
    "router": {"freeze_at": 0.5, "lr": 0.1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = ElasticConfig.from_dict(BLOCK)
    return train_family(config, config.parent_shape(unstriped(LATENT)), tmp_path_factory.mktemp("experts"))


def test_sorting_kept_the_parent_s_function_and_gave_each_expert_its_order(trained: Trained) -> None:
    tokens = trained.host.data[:2]
    again = NemotronH(trained.parent, trained.before)
    assert torch.allclose(again(tokens), trained.host.frozen(tokens), atol=1e-4)
    ranking = Ranking.load(trained.out / "ranking")
    assert ranking.orders["expert_ffn.1"].shape == (8, 12)
    assert len({tuple(row) for row in ranking.orders["expert_ffn.1"].tolist()}) > 1
    unsorted = trained.host.frozen.state_dict()
    for name in ("gate.weight", "gate.e_score_correction_bias", "experts.0.up_proj.weight", "fc2_latent_proj.weight"):
        key = f"backbone.layers.1.mixer.{name}"
        assert not torch.equal(trained.before[key], unsorted[key]), name


def test_the_router_cut_its_axes_within_their_budgets(trained: Trained) -> None:
    members, parent = trained.members, trained.parent
    assert members["small"] <= members["large"] <= members["full"] == parent.full
    assert parameters(parent, members["large"]) <= 0.8 * parameters(parent, parent.full)
    assert active_parameters(parent, members["small"]) <= 6500
    assert parameters(parent, members["small"]) <= 0.7 * parameters(parent, parent.full)
    projected = json.loads((trained.out / "members.json").read_text())["report"]["projection"]
    assert {field: limit["cost"] for field, limit in projected["small"]["limits"].items()} == {
        "active_params": active_parameters(parent, members["small"]), "ratio": parameters(parent, members["small"]),
    }  # fmt: skip
    assert "limits" not in projected["large"]
    assert all(width >= 2 for width in members["small"].widths("experts"))
    assert json.loads((trained.out / "shapes.json").read_text())["report"]["source"] == "even"
    assert any(isinstance(choice, Gates) for choice in trained.choices), "the router had a part in it"
    assert any(isinstance(choice, Subnet) for choice in trained.choices)


def test_a_step_logs_each_of_several_limits_and_the_one_that_is_used_most() -> None:
    family = FamilyTraining(ElasticConfig.from_dict(BLOCK), steps=8)
    parent = family.config.parent_shape(unstriped(LATENT))
    family.members = Members(parent, 3, family.new_router(parent))
    family.members.put([parent.full] * 3, frozen=False)
    facts: dict[str, dict[str, float]] = {}
    for step in range(64):
        family.next_samples(step % 4)
        if family.last_router:
            asked = family.config.budgets[family.last_router["budget"]]
            name = asked.name
            facts[name] = step_facts_of(family, {})
            expected = expected_member(family.space(parent), family.last_router["routed"].probabilities)
            limits = {limit.kind.field: limit for limit in asked.limits}
            shares = {field: float(limit.share(parent, expected)) for field, limit in limits.items()}
            assert facts[name][f"cost_{name}"] == pytest.approx(max(shares.values()), rel=1e-6)
            logged = {k: v for k, v in facts[name].items() if k.startswith("limit_")}
            several = shares if len(shares) > 1 else {}
            assert logged == pytest.approx({f"limit_{k}_{name}": share for k, share in several.items()}, rel=1e-6)
    assert {"large", "small"} == set(facts)


def test_training_moved_experts_and_left_the_bias_of_the_router(trained: Trained) -> None:
    after = trained.host.model.state_dict()
    layer = trained.members["small"].kept[trained.members["small"].pattern.index("E")]
    prefix = f"backbone.layers.{layer}.mixer."
    for name in (
        "experts.0.up_proj.weight",
        "gate.weight",
        "shared_experts.down_proj.weight",
        "fc1_latent_proj.weight",
    ):
        assert (after[prefix + name] - trained.before[prefix + name]).abs().max() > 1e-4, name
    bias = prefix + "gate.e_score_correction_bias"
    assert torch.equal(after[bias], trained.before[bias])


def test_the_family_is_written_verified_cut_and_run(trained: Trained, tmp_path: Path) -> None:
    parent, config = trained.parent, trained.family.config
    made = Family.of(parent, trained.members, axes=config.resolve_axes(parent), budgets=config.budgets)
    arrays = {name: value.numpy() for name, value in trained.host.model.state_dict().items()}
    folder = write_family(tmp_path / "family", parent, arrays, made)
    report = verify(folder)
    assert report.ok, [check for check in report.checks if check.ok is False]
    small, tokens = trained.members["small"], trained.host.data[:2]
    cut = slice_checkpoint(folder, tmp_path / "small", member="small")
    expected = trained.host.model(tokens, small)
    runtime = load_family(folder)
    for place, choice in ((runtime, "small"), (load_family(cut.out), "small")):
        assert torch.allclose(place.select(choice)(tokens), expected, atol=1e-5)
