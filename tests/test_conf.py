# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every block in conf/ is valid by itself, against its schema, and on the parent that it is for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.demo.demo_settings import BLOCK
from nemo_elastic.plan import preset
from nemo_elastic.plan.work import members
from nemo_elastic.search import Space
from nemo_elastic.search.fullest import fullest
from tests.shapes import NANO_30B

CONF = Path(__file__).parents[1] / "conf"
PARENTS = {
    "elastic_12b": "nemotron-nano-12b-v2",
    "elastic_9b": "nemotron-nano-9b-v2",
    "elastic_8b": "nemotron-h-8b",
    "elastic_4b": "nemotron-3-nano-4b",
    "elastic_tiny": "nemotron-h-tiny",
}
FILES = sorted(CONF.glob("*.yaml"))


@pytest.mark.parametrize("name", PARENTS)
def test_a_block_is_valid_and_its_budgets_can_be_met(name: str) -> None:
    path = CONF / f"{name}.yaml"
    config = ElasticConfig.load(path)
    parent = config.parent_shape(preset(PARENTS[name]))
    targets = config.targets(parent)
    assert set(config.resolve_axes(parent)) >= set(config.axes)
    for member, subnet in members(parent, config).items():
        # even cuts, the coarsest of all ways to meet a budget, come within a few percent of it
        assert 0.95 * targets[member] < parameters(parent, subnet) <= targets[member]
    for tensor in (2, 4, 8) if name != "elastic_tiny" else (2,):
        for axis in ("ffn", "mamba_heads", "attention_heads"):
            assert parent.axis(axis).blocks % tensor == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_follows_the_schema_that_it_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    data = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(data, dict) or "elastic" not in data:
        pytest.skip("holds no elastic block")
    first = text.splitlines()[0]
    assert first == "# yaml-language-server: $schema=elastic.schema.json"
    schema = json.loads((CONF / first.partition("$schema=")[2]).read_text(encoding="utf-8"))
    assert [e.message for e in Draft202012Validator(schema).iter_errors(data)] == []


@pytest.mark.parametrize("name", PARENTS)
def test_every_member_can_be_an_ordinary_folder_and_a_nemo_checkpoint(name: str) -> None:
    """One width per axis, and an attention layer: what the pages promise of the recipes' members."""
    config = ElasticConfig.load(CONF / f"{name}.yaml")
    parent = config.parent_shape(preset(PARENTS[name]))
    space = Space(parent, config.resolve_axes(parent), range(parent.num_layers))
    rng = np.random.default_rng(0)
    for _ in range(50):
        member = space.decode(rng.integers(0, space.sizes))
        assert member.is_uniform and "*" in member.pattern


def test_the_tiny_block_is_the_demos() -> None:
    assert ElasticConfig.load(CONF / "elastic_tiny.yaml") == ElasticConfig.from_dict(BLOCK)


def test_blocks_of_families_with_experts_are_valid_and_can_be_met() -> None:
    tiny = replace(
        NANO_30B, pattern="MEM*EMEM*E", hidden=128, vocab=1024, mamba_heads=16, mamba_head_dim=16, mamba_groups=4,
        state=16, attention_heads=4, attention_head_dim=32,
        experts=8, expert_ffn=96, shared_ffn=192, top_k=2, routed_scaling=2.5,
    )  # fmt: skip
    for name, shape, counts in (
        ("elastic_30b_a3b", NANO_30B, (31_577_940_288, 3_580_076_352)),
        ("elastic_tiny_experts", tiny, (1_824_864, 1_235_040)),
    ):
        config = ElasticConfig.load(CONF / f"{name}.yaml")
        parent = config.parent_shape(shape)
        assert (parameters(parent, parent.full), active_parameters(parent, parent.full)) == counts
        config.targets(parent)
        cuts = members(parent, config)
        for budget in config.budgets[1:]:
            subnet = cuts[budget.name]
            assert all(0.9 < limit.share(parent, subnet) <= 1 for limit in budget.limits)
        assert subnet.widths("experts")[0] < parent.size("experts")
        for axis in ("experts", "shared_ffn"):
            assert parent.axis(axis).blocks % 2 == 0
        assert parent.axis("expert_ffn").blocks == 1  # an expert is whole on its rank


def test_the_30b_block_can_choose_the_published_members() -> None:
    """NVIDIA's members of 23B and 12B meet the budgets, nothing can be added to either, and the 12B is in the 23B."""
    config = ElasticConfig.load(CONF / "elastic_30b_a3b.yaml")
    parent = config.parent_shape(NANO_30B)
    space = Space(parent, config.resolve_axes(parent))
    published = {
        "23b": (parent.uniform(hidden=2240, expert_ffn=1600), ("22.94", "2.83")),
        "12b": (parent.uniform(hidden=1920, expert_ffn=960), ("12.43", "2.08")),
    }
    inside = (0,) * len(space.slots)
    for budget in config.budgets[1:]:
        assert [limit.field for limit in budget.limits] == ["params", "active_params"]
        member, counts = published[budget.name]
        assert tuple(f"{count(parent, member) / 1e9:.2f}" for count in (parameters, active_parameters)) == counts
        full = fullest(space, budget, inside)
        assert full is not None
        inside = space.encode(member)
        assert tuple(inside) in {tuple(code) for code in full.tolist()}
