# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A kind with two axes of its own goes the whole way without a change of the package: `gated.KIND`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import RankOptions, sort
from nemo_elastic.ranking.measure import rank
from nemo_elastic.search import Space, search
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.verification import verify
from tests.core.kinds.gated import GATED, KIND, UNIT_SIZE, UNITS, registered

BLOCK = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.6}],
    "axes": {
        "hidden": [32, 28, 24],
        "depth": [6, 5],
        UNITS: {"choices": [12, 8, 4], "per_layer": True},
        UNIT_SIZE: [8, 6, 4],
        "attention_heads": [4, 2],
    },
}
UP = "backbone.layers.1.mixer.up_proj.weight"


@pytest.fixture(scope="module", autouse=True)
def kind() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def parent() -> Parent:
    own = {UNITS: 12, UNIT_SIZE: 8, "gated_groups": 4}
    return Parent("MG*G-G", 32, 96, ffn=32, mamba_heads=4, mamba_head_dim=8, mamba_groups=2, state=8,
                  attention_heads=4, kv_heads=2, attention_head_dim=8, sizes=own)  # fmt: skip


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


def test_from_a_ranking_and_a_search_to_a_member_that_runs(parent: Parent, tmp_path: Path) -> None:
    config, tokens = ElasticConfig.from_dict(BLOCK), torch.arange(24).view(2, 12)
    shape, plain = config.parent_shape(parent), NemotronH.random(parent, scale=3)
    ranking = rank(Layers(plain.weights()), parent, [tokens], RankOptions(hidden="basis"))
    model = NemotronH(shape, sort(plain.state_dict(), ranking, shape))
    whole = model(tokens)
    assert torch.allclose(whole, plain(tokens), atol=1e-4)
    assert not torch.equal(model.state_dict()[UP], plain.state_dict()[UP])
    axes = config.resolve_axes(shape)
    space = Space(shape, axes, ranking.depth)
    members = search(space, config.budgets, lambda m: float((model(tokens, m) - whole).square().mean()), 32).members
    small = members["small"]
    assert small <= members["large"] and parameters(shape, small) <= 0.6 * parameters(shape, shape.full)
    assert min(small.widths(UNITS)) < 12 or min(small.widths(UNIT_SIZE)) < 8
    family = write_family(tmp_path / "family", shape, model.state_dict(), Family.of(shape, members, axes=axes))
    opened = open_source(slice_checkpoint(family, tmp_path / "small", member="small").out)
    assert verify(tmp_path / "small", parent=family).ok
    alone = NemotronH(opened.parent, {name: raw.torch() for name, raw in opened.tensors.items()}, opened.subnet)
    assert torch.allclose(alone(tokens), model(tokens, small), atol=1e-5)


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
