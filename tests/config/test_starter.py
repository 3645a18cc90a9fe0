# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A block to start with is valid on every published parent, and its budgets can be met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.starter import starter_block
from nemo_elastic.core.cost import parameters
from nemo_elastic.plan import PRESETS
from nemo_elastic.plan.work import members

SCHEMA = json.loads((Path(__file__).parents[2] / "conf" / "elastic.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PRESETS)
def test_the_block_is_valid_and_even_cuts_come_near_its_budgets(name: str) -> None:
    data = yaml.safe_load(starter_block(PRESETS[name]))
    assert [e.message for e in Draft202012Validator(SCHEMA).iter_errors(data)] == []
    config = ElasticConfig.from_dict(data["elastic"])
    parent = config.parent_shape(PRESETS[name])
    targets = config.targets(parent)
    for member, subnet in members(parent, config).items():
        assert 0.9 * targets[member] < parameters(parent, subnet) <= targets[member]
