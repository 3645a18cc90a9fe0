# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Top-k as an axis, from a block to a member's folder; `formats/hf/test_transformers.py` has the logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic import ElasticConfig, Family, Subnet
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import active_parameters, flops_per_token, parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.moe import PLAIN, TOP_K_STRIPES
from nemo_elastic.core.kinds.record import Widths
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.weights import random_state
from nemo_elastic.ranking.ranking import names
from nemo_elastic.router import Router
from nemo_elastic.search import Space, search
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.shapes import LATENT, MOE, PARENT

WHOLE = replace(MOE, top_k=4)
AXIS = {"choices": [4, 3, 2, 1], "per_layer": True}
#: parameters of an expert
ONE = 2 * 12 * 16
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "small", "active_params": active_parameters(WHOLE, WHOLE.full) - 3 * ONE}],
    "axes": {"top_k": AXIS},
}
CONFIG = ElasticConfig.from_dict(BLOCK)
SHAPE = CONFIG.parent_shape(WHOLE)


def by_layer(first: int, second: int, shape: Parent = SHAPE) -> Subnet:
    """The whole parent with other top-k in its two layers of experts."""
    layers = list(shape.full.layers)
    for at, top_k in ((1, first), (4, second)):
        layers[at] = replace(layers[at], widths=Widths({**layers[at].widths, "top_k": top_k}))
    return Subnet(shape.hidden, tuple(layers)).validate(shape)


def tokens() -> torch.Tensor:
    return torch.randint(MOE.vocab, (2, 9), generator=torch.Generator().manual_seed(0))


def test_it_is_an_axis_where_a_block_lists_it_alone() -> None:
    without = ElasticConfig.from_dict({**BLOCK, "axes": {"experts": [8, 4]}}).parent_shape(WHOLE)
    assert without.kind("moe") is PLAIN and "top_k" not in without.axes and TOP_K_STRIPES not in without.to_json()
    assert "top_k" in SHAPE.axes and SHAPE.to_json()[TOP_K_STRIPES] == 1
    assert Parent.from_json(SHAPE.to_json()) == SHAPE
    assert Subnet.from_json(by_layer(3, 1).to_json(), SHAPE) == by_layer(3, 1)
    assert not any(axis == "top_k" for _, axis, _ in names(SHAPE))  # it has no channels to rank
    latent = CONFIG.parent_shape(replace(LATENT, top_k=4))
    assert latent.kind("moe").widths == ("experts", "expert_ffn", "top_k", "shared_ffn", "latent")


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ([4, 0], "top_k.* positive integers"),
        ([4, 2.5], "top_k.* positive integers"),
        ([4, "two"], "top_k.* positive integers"),
        ([5, 4], r"elastic\.axes\.top_k: 5 is not allowed; allowed are 1 to 4"),
        ([3, 2], "the first choice must be the parent's 4"),
        ({"choices": [4, 2], "stripes": 2}, r"top_k\.stripes: 2 is not allowed; only"),
    ],
)
def test_choices_that_cannot_be_are_one_line(axis: Any, message: str) -> None:
    with pytest.raises(ElasticError, match=message):
        ElasticConfig.from_dict({**BLOCK, "axes": {"top_k": axis}}).resolve_axes(WHOLE)


def test_a_token_goes_to_experts_that_there_are() -> None:
    with pytest.raises(ElasticError, match=r"elastic\.axes\.top_k.*this parent has no moe layer"):
        CONFIG.resolve_axes(PARENT)
    with pytest.raises(ElasticError, match=r"elastic\.axes\.experts: 2 is not allowed; allowed are 4 to 8"):
        ElasticConfig.from_dict({**BLOCK, "axes": {"experts": [8, 2], "top_k": AXIS}}).resolve_axes(WHOLE)
    for top_k in (0, 5):
        with pytest.raises(ElasticError, match=rf"layers\[1\]\.top_k: {top_k} is not allowed; allowed are 1 to 4"):
            by_layer(top_k, 2)


def test_what_it_costs_and_how_it_nests() -> None:
    member = by_layer(3, 2)
    assert parameters(SHAPE, member) == parameters(WHOLE, WHOLE.full)
    assert active_parameters(SHAPE, SHAPE.full) - active_parameters(SHAPE, member) == 3 * ONE
    assert flops_per_token(SHAPE, SHAPE.full) - flops_per_token(SHAPE, member) == 2 * 3 * ONE
    assert by_layer(2, 2) <= member <= SHAPE.full and not by_layer(2, 3) <= member
    with pytest.raises(ElasticError, match="layer 4 has top_k 3, above 2"):
        Family.of(SHAPE, {"full": SHAPE.full, "a": member, "b": by_layer(2, 3)})


def test_masked_is_sliced_and_fewer_experts_are_those_of_a_parent_with_fewer() -> None:
    model = NemotronH.random(SHAPE, seed=2, dtype=torch.float64)
    few = NemotronH(replace(WHOLE, top_k=2), model.state_dict())
    torch.testing.assert_close(model(tokens(), by_layer(2, 2)), few(tokens()), rtol=1e-12, atol=1e-12)
    whole = model(tokens())
    for member in (by_layer(4, 1), by_layer(2, 3), SHAPE.uniform(expert_ffn=6, top_k=2)):
        runs = []
        for choice in (member, Gates.of(SHAPE, member, dtype=torch.float64)):
            model.zero_grad(set_to_none=True)
            out = model(tokens(), choice)
            out.square().sum().backward()
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            runs.append((out.detach(), grads))
        (sliced, ours), (masked, theirs) = runs
        torch.testing.assert_close(masked, sliced, rtol=1e-11, atol=1e-11)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)
        assert (sliced - whole).abs().max() > 1e-3


def test_the_router_learns_each_layers_top_k() -> None:
    """Soft gates fall from the first choice to the last, and the output's gradient reaches every layer's logits."""
    space = Space(SHAPE, CONFIG.resolve_axes(SHAPE))
    router = Router(space, CONFIG.budgets, seed=1)
    routed = router.gates("small", hard=False)
    gates = [routed.gates.layers[i]["top_k"] for i in (1, 4)]
    for gate in gates:
        assert gate.shape == (4,) and gate[0] == 1 and (gate[1:] <= gate[:-1]).all() and gate[-1] < gate[1]
    model = NemotronH.random(SHAPE, seed=2)
    model(tokens(), routed.gates).square().mean().backward()
    assert (router.up["top_k"].grad != 0).any() and router.up["top_k"].shape[1] == 2 * 4
    mean = sum(float(gate.detach().sum()) for gate in gates) * ONE + active_parameters(SHAPE, SHAPE.full) - 8 * ONE
    expected = router.expected_cost(routed.probabilities, "small").detach()
    assert float(expected) == pytest.approx(mean / CONFIG.targets(SHAPE)["small"], rel=1e-6)


def test_a_gate_between_zero_and_one_lies_between_its_members() -> None:
    model = NemotronH.random(SHAPE, seed=2, dtype=torch.float64)
    gates, one = Gates.of(SHAPE, SHAPE.full, dtype=torch.float64), model(tokens(), by_layer(1, 1))
    apart = []
    for value in (1.0, 0.6, 0.2, 0.0):
        for i in (1, 4):
            top_k = torch.tensor([1, value, value, value], dtype=torch.float64)
            gates.layers[i].widths = {**gates.layers[i].widths, "top_k": top_k}
        apart.append(float((model(tokens(), gates) - one).square().mean()))
    assert apart[0] > apart[1] > apart[2] > apart[3] and apart[3] < 1e-20


def test_a_search_spends_it_by_layer(tmp_path: Path) -> None:
    model = NemotronH.random(SHAPE, seed=4)
    space = Space(SHAPE, CONFIG.resolve_axes(SHAPE))
    with torch.no_grad():
        whole = model(tokens())
        found = search(space, CONFIG.budgets, lambda m: float((model(tokens(), m) - whole).square().mean()), 32)
    member = found.members["small"]
    assert sum(member.widths("top_k")) == 5 and CONFIG.budgets[1].cost(SHAPE, member) == CONFIG.targets(SHAPE)["small"]


@pytest.mark.parametrize(("member", "kind"), [(by_layer(2, 2), "nemotron_h"), (by_layer(3, 1), "nemotron_h_puzzle")])
def test_a_folder_says_it(member: Subnet, kind: str, tmp_path: Path) -> None:
    axes = {"top_k": AxisConfig((4, 3, 2, 1), per_layer=True)}
    family = Family.of(SHAPE, {"full": SHAPE.full, "small": member}, axes=CONFIG.resolve_axes(SHAPE) | axes)
    folder = write_family(tmp_path / "family", SHAPE, random_state(SHAPE, SHAPE.full), family)
    slice_checkpoint(folder, tmp_path / "small", member="small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["model_type"] == kind and config["num_experts_per_tok"] == max(member.widths("top_k"))
    said = [block["num_experts_per_tok"] for block in config.get("block_configs", []) if block["block_type"] == "moe"]
    assert said == (list(member.widths("top_k")) if kind.endswith("puzzle") else [])
    assert open_source(tmp_path / "small").subnet.widths("top_k") == member.widths("top_k")


def test_a_megatron_checkpoint_has_one_top_k_above_one() -> None:
    assert stock_sizes(SHAPE, by_layer(2, 2), experts=True)["moe_router_topk"] == 2
    with pytest.raises(ElasticError, match="one width in all layers of a type"):
        stock_sizes(SHAPE, by_layer(3, 2), experts=True)
    with pytest.raises(ElasticError, match="moe_router_topk: 1 is not allowed; 2 or more"):
        stock_sizes(SHAPE, by_layer(1, 1), experts=True)
