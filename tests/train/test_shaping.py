# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family that others published learns on: its weights stay in their order, its members in their shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.slicing.untrained import join_family
from tests.slicing import strangers as theirs
from tests.slicing.test_published import DEPTH, publish
from tests.train.trained import Trained, random_rows

BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "mid", "ratio": 0.9}, {"name": "low", "ratio": 0.8}],
    "axes": {"hidden": [64, 48], "ffn": [96, 32], "depth": [7, 5]},
}
CHANGES = {"mid": {"intermediate_size": 32}, "low": DEPTH | {"intermediate_size": 32, "hidden_size": 48}}


def family_of(place: Path, parts: int | None = None, **more: Any) -> Family:
    folders = publish(place, theirs.DENSE, {name: own | more for name, own in CHANGES.items()}, parts=parts)
    return join_family(folders.pop("parent"), folders).family


def test_members_train_in_the_order_of_the_weights(tmp_path: Path) -> None:
    family = family_of(tmp_path)
    config = ElasticConfig.from_dict(BLOCK | {"shapes": str(tmp_path / "parent" / "elastic.json")})
    parent = config.parent_shape(family.parent)
    assert parent == family.parent and parent.ffn_stripes == 1  # not the eight of a block that sorts
    run = Trained(config, parent, tmp_path / "run", random_rows(parent.vocab, 4, 16), 4, 1, lr=1e-2)
    before = {name: value.clone() for name, value in run.host.model.state_dict().items()}
    run.prepare()
    assert all(torch.equal(before[name], value) for name, value in run.host.model.state_dict().items())
    assert run.family.members.get() == [m.subnet for m in family]
    run.go(4)
    assert run.family.members.is_frozen and run.family.members.get() == [m.subnet for m in family]
    assert any(not torch.equal(before[name], value) for name, value in run.host.model.state_dict().items())


@pytest.mark.parametrize(("axes", "more", "field"), [
    ({"ffn": {"choices": [96, 32], "stripes": 8}}, {}, "ffn_stripes"),
    ({"mamba_heads": [16, 8]}, {"mamba_num_heads": 8}, "mamba_shards"),
])  # fmt: skip
def test_a_block_that_would_cut_other_channels_is_refused(tmp_path: Path, axes: dict, more: dict, field: str) -> None:
    family = family_of(tmp_path, parts=2 if more else None, **more)
    block = BLOCK | {"axes": BLOCK["axes"] | axes, "shapes": str(tmp_path / "parent" / "elastic.json")}
    config = ElasticConfig.from_dict(block)
    plain = replace(family.parent, sizes={n: size for n, size in family.parent.sizes.items() if n != "mamba_shards"})
    run = Trained(config, config.parent_shape(plain), tmp_path / "run", random_rows(96, 4, 16), 4, 1, lr=1e-2)
    with pytest.raises(ElasticError, match=f"parent.{field}"):
        run.prepare()
