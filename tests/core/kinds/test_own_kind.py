# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A kind with two axes of its own goes the whole way without a change of the package: `gated.KIND`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic import Parent, Subnet, slice_checkpoint
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Layer
from nemo_elastic.core.kinds.registry import register
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.slicing.family_folder import write_family
from tests.core.kinds.gated import GATED, KIND, UNIT_SIZE, UNITS, registered
from tests.train.trained import Trained, train_family

BLOCK = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.6}],
    "axes": {
        "hidden": [32, 28, 24],
        "depth": [6, 5],
        UNITS: {"choices": [12, 8, 4], "per_layer": True},
        UNIT_SIZE: [8, 6, 4],
        "attention_heads": [4, 2],
    },
    "importance": {"samples": 8, "depth_samples": 2},
    "search": {"candidates": 16, "tokens": 128},
    "halving": {"cuts": [0.34, 0.5], "tokens": 128},
    "budgets_per_batch": 3,  # each candidate has had its turn in as many steps as there are
}


@pytest.fixture(scope="module", autouse=True)
def kind() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def parent() -> Parent:
    own = {UNITS: 12, UNIT_SIZE: 8, "gated_groups": 4}
    return Parent("MG*G-G", 32, 96, ffn=32, mamba_heads=4, mamba_head_dim=8, mamba_groups=2, state=8,
                  attention_heads=4, kv_heads=2, attention_head_dim=8, sizes=own)  # fmt: skip


@pytest.fixture(scope="module")
def trained(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = ElasticConfig.from_dict(BLOCK)
    return train_family(config, config.parent_shape(parent), tmp_path_factory.mktemp("own"))


def arrays(model: NemotronH) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_masked_is_sliced(parent: Parent) -> None:
    model = NemotronH.random(parent, seed=3, dtype=torch.float64)
    tokens = torch.arange(24).view(2, 12)
    layers = [*parent.full.layers]
    layers[3] = Layer(3, GATED, {UNITS: 8, UNIT_SIZE: 5})
    small = Subnet(27, tuple(layers[:4]) + tuple(layers[5:])).validate(parent)
    masked = model(tokens, Gates.of(parent, small, dtype=torch.float64))
    assert torch.allclose(model(tokens, small), masked, rtol=1e-12, atol=1e-12)
    assert torch.allclose(model.submodel(small)(tokens), masked, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(model(tokens), masked, rtol=1e-2)


def test_the_search_cut_its_axes_and_candidates_took_turns(trained: Trained) -> None:
    members = trained.members
    assert list(members) == ["full", "large", "small"] and members["small"] <= members["large"] <= members["full"]
    shapes = json.loads((trained.out / "shapes.json").read_text())
    assert shapes["report"]["source"] == "search"
    parent, names = trained.parent, list(members)[1:]
    candidates = {name: [Subnet.from_json(m, parent) for m in shapes["report"]["candidates"][name]] for name in names}
    ran = [choice for choice in trained.choices if isinstance(choice, Subnet)]
    assert all(ran.count(m) for own in candidates.values() for m in own) and max(map(len, candidates.values())) > 1
    assert [members[name] in candidates[name] for name in names] == [True, True]
    assert parameters(parent, members["small"]) <= 0.6 * parameters(parent, parent.full)
    assert min(members["small"].widths(UNITS)) < 12 or min(members["small"].widths(UNIT_SIZE)) < 8


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained family as a folder: its weights, and `elastic.json`."""
    place = tmp_path_factory.mktemp("family")
    shape = trained.host.model.parent
    config = trained.family.config
    made = Family.of(shape, trained.members, axes=config.resolve_axes(shape), budgets=config.budgets)
    return write_family(place / "family", shape, arrays(trained.host.model), made)


def test_a_member_is_sliced_out_and_runs_as_it_did(folder: Path, trained: Trained, tmp_path: Path) -> None:
    small = trained.members["small"]
    cut = slice_checkpoint(folder, tmp_path / "small", member="small")
    opened = open_source(cut.out)
    state = {name: raw.torch() for name, raw in opened.tensors.items()}
    tokens = trained.host.data[:2]
    alone = NemotronH(opened.parent, state, opened.held)(tokens)
    assert torch.allclose(alone, trained.host.model(tokens, small), atol=1e-5)


def test_other_parents_know_nothing_of_it() -> None:
    plain = Parent("M-*", 32, 96, ffn=32, mamba_heads=4, mamba_head_dim=8, mamba_groups=2, state=8)
    assert UNITS not in plain.axes and plain.to_json().keys() == Parent("-", 8, 8).to_json().keys()
    with pytest.raises(ElasticError, match=f"elastic.axes.{UNITS}: .*no gated layer"):
        ElasticConfig.from_dict(BLOCK).resolve_axes(plain)
    with pytest.raises(ElasticError, match=r"parent.gated_groups: missing"):
        Parent("G", 32, 96, sizes={UNITS: 4, UNIT_SIZE: 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "kind.symbol: 'G' is not allowed; taken by gated"),
        ({"name": "other", "symbol": "K"}, "kind.axes: 'gated_groups' is not allowed; taken by gated"),
        ({"symbol": "M"}, "kind.symbol: 'M' is not allowed; taken by mamba"),
    ],
)
def test_what_is_taken_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ElasticError, match=message):
        register(replace(KIND, **change))
