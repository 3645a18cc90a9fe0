# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The reference model: masked = sliced in logits and in every gradient, and nothing that is cut off matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import OWN_WIDTH, Parent, Subnet
from nemo_elastic.core.kinds.registry import all_axes
from nemo_elastic.core.layout import originals, selection, tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.gates import Gates, LayerGates
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.shapes import MOE, PARENT
from tests.strategies import parents, parents_and_subnets

CUTS = [*((axis,) for axis in all_axes()), all_axes()]

some = settings(max_examples=25)


def tokens_of(parent: Parent, batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(parent.vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float, floor: float = 1.0) -> bool:
    return bool(torch.isfinite(a).all()) and (a - b).abs().max().item() <= tolerance * max(b.abs().max().item(), floor)


def run(model: NemotronH, tokens: torch.Tensor, choice: Subnet | Gates | None):
    """Logits, and the gradient of a fixed random functional of them for every weight."""
    model.zero_grad(set_to_none=True)
    logits = model(tokens, choice)
    random = torch.Generator().manual_seed(1)
    (logits * torch.randn(logits.shape, generator=random, dtype=logits.dtype)).mean().backward()
    return logits.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
    }


def kept_mask(parent: Parent, member: Subnet, t) -> torch.Tensor:
    """Which elements of one of the parent's tensors `member` keeps."""
    if t.layer is not None and t.layer.index not in member.by_index:
        return torch.zeros(t.shape, dtype=torch.bool)
    mask, index = np.ones((), dtype=bool), t.index
    if t.number is not None and t.number not in originals(parent, t.row, parent.full, member, index):
        return torch.zeros(t.shape, dtype=torch.bool)
    for dim in range(len(t.shape)):
        mask = mask[..., None] & selection(parent, t.row, dim, parent.full, member, index).mask()
    return torch.from_numpy(mask)


@pytest.mark.parametrize("axes", CUTS, ids="+".join)
@some
@given(data=st.data())
def test_masked_equals_sliced_in_logits_and_every_gradient(axes, data):
    parent, member = data.draw(parents_and_subnets(axes=axes, norms=True))
    model = NemotronH.random(parent, seed=2, dtype=torch.float64)
    tokens = tokens_of(parent)
    sliced, slice_grads = run(model, tokens, member)
    masked, mask_grads = run(model, tokens, Gates.of(parent, member, dtype=torch.float64))
    assert close(masked, sliced, 1e-12, floor=0.0)
    largest = max(g.abs().max().item() for g in slice_grads.values())
    for name, grad in mask_grads.items():
        assert close(grad, slice_grads[name], 1e-12, floor=largest), name
    for t in tensors(parent, parent.full):
        outside = ~kept_mask(parent, member, t)
        assert not slice_grads[t.hf][outside].any(), t.hf
        assert not mask_grads[t.hf][outside].any(), t.hf


@some
@given(data=st.data())
def test_soft_gates_are_the_formula_of_the_method(data):
    """Gates on weights, written as the method writes them, give what gates on activations give."""
    parent = data.draw(parents(max_layers=3, kinds="M-*", norms=True))  # of experts: test_moe.py
    model = NemotronH.random(parent, dtype=torch.float64)
    random = torch.Generator().manual_seed(4)

    def gate(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64) * 0.9 + 0.05

    hidden = gate(parent.hidden)
    layers = []
    for kind in parent.types:
        layers.append(LayerGates(gate()[()], {axis: gate(parent.size(axis)) for axis in parent.kind(kind).widths}))
    gates = Gates(hidden, tuple(layers))
    # Every norm averages over the sum of its gates instead of its size: with weights grown by sqrt(sum / size) and an
    # epsilon shrunk by it, a stock norm does the same. Epsilon aside (taken as tiny), the rest is gated weights. Those
    # of the stream are stock norms where they are over the parent's width.
    tiny = replace(parent, norm_eps=1e-30)
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    grow = (hidden.sum() / parent.hidden).sqrt() if parent.norm == OWN_WIDTH else 1.0
    state["backbone.embeddings.weight"] *= hidden
    state["backbone.norm_f.weight"] *= hidden * grow
    if parent.tied:
        state["lm_head.weight"] = model.get_parameter("backbone.embeddings.weight").detach().clone()
        tiny = replace(tiny, tied=False)
    post = {}
    for i, (kind, g) in enumerate(zip(parent.types, layers)):
        prefix = f"backbone.layers.{i}."
        state[prefix + "norm.weight"] *= hidden * grow
        out = {"mlp": "down_proj", "mamba": "out_proj", "attention": "o_proj"}[kind]
        columns = g.channels(*parent.kind(kind).widths)
        if kind == "attention":
            columns = columns.repeat_interleave(parent.attention_head_dim)
        if kind == "mamba":
            inner = len(columns)
            state[prefix + "mixer.in_proj.weight"][: 2 * inner] *= torch.cat([columns, columns])[:, None]
            count = columns.unflatten(0, (parent.mamba_groups, -1)).sum(-1)
            post[i] = columns
            grown = (count / (inner // parent.mamba_groups)).sqrt().repeat_interleave(inner // parent.mamba_groups)
            state[prefix + "mixer.norm.weight"] *= grown
        state[prefix + f"mixer.{out}.weight"] *= columns * (hidden * g.keep)[:, None]
    gated = NemotronH(tiny, state)
    tokens = tokens_of(parent)
    expected = _with_y_gate(gated, tokens, post)
    same_eps = NemotronH(replace(parent, norm_eps=1e-30), model.state_dict())
    assert close(same_eps(tokens, gates), expected, 1e-9)


def _with_y_gate(model: NemotronH, tokens: torch.Tensor, post: dict[int, torch.Tensor]) -> torch.Tensor:
    """A stock forward in which y of Mamba layer i is multiplied before the gated norm (no weight can express it)."""
    from nemo_elastic.nn import mixer as module

    plain, order = module.gated_rms_norm, iter(sorted(post))

    def gated(y, z, *args):
        return plain(y * post[next(order)], z, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "gated_rms_norm", gated)
        return model(tokens)


@some
@given(data=st.data())
def test_nothing_outside_the_cut_changes_anything(data):
    parent, member = data.draw(parents_and_subnets())
    model = NemotronH.random(parent, dtype=torch.float64)
    tokens, gates = tokens_of(parent), Gates.of(parent, member, dtype=torch.float64)
    expected = model(tokens, member)
    masked = model(tokens, gates)
    random = torch.Generator().manual_seed(5)
    for value in ("huge", "nan"):
        for t in tensors(parent, parent.full):
            outside = ~kept_mask(parent, member, t)
            noise = torch.randn(t.shape, generator=random, dtype=torch.float64)
            # a rate in an exponential is huge at 5; a matrix at 1e4
            noise *= 5 if t.row.name in ("mamba.a_log", "mamba.dt_bias") else 1e4
            weight = model.get_parameter(t.hf).data
            weight[outside] = noise[outside] if value == "huge" else torch.nan
        assert torch.equal(model(tokens, member), expected), value
        if value == "huge":  # 0 * nan is nan: a mask cannot hide that
            assert close(model(tokens, gates), masked, 1e-12, floor=0.0)


def test_every_probe_site_shows_what_it_says():
    model = NemotronH.random(PARENT, dtype=torch.float64)
    tokens = tokens_of(PARENT)
    seen = {}
    model(tokens, probe=lambda site, index, x: seen.update({(site, index): x.detach()}))
    state = model.state_dict()
    kinds = {"mamba": ["mamba_x"], "mlp": ["ffn_pre", "ffn"], "attention": ["attention"]}
    expected = {("hidden", -1)}
    for i, kind in enumerate(PARENT.types):
        expected |= {(site, i) for site in ["hidden", "layer_in", "layer_out", *kinds[kind]]}
    assert set(seen) == expected
    assert torch.equal(seen["layer_in", 0], state["backbone.embeddings.weight"][tokens])
    assert all(torch.equal(seen["layer_out", i], seen["layer_in", i + 1]) for i in range(PARENT.num_layers - 1))
    ffn = PARENT.types.index("mlp")
    prefix = f"backbone.layers.{ffn}.mixer."
    assert torch.allclose(seen["ffn_pre", ffn], seen["hidden", ffn] @ state[prefix + "up_proj.weight"].T)
    assert torch.equal(seen["ffn", ffn], seen["ffn_pre", ffn].relu() ** 2)
    added = seen["layer_out", ffn] - seen["layer_in", ffn]
    assert torch.allclose(added, seen["ffn", ffn] @ state[prefix + "down_proj.weight"].T)
    att = PARENT.types.index("attention")
    added = seen["layer_out", att] - seen["layer_in", att]
    out = seen["attention", att].flatten(2) @ state[f"backbone.layers.{att}.mixer.o_proj.weight"].T
    assert seen["attention", att].shape == (2, 7, 4, 4) and torch.allclose(added, out)
    inner = PARENT.mamba_heads * PARENT.mamba_head_dim
    x = seen["hidden", 0] @ state["backbone.layers.0.mixer.in_proj.weight"][inner : 2 * inner].T
    assert torch.allclose(seen["mamba_x", 0].flatten(2), x) and seen["mamba_x", 0].shape == (2, 7, 6, 4)
    last = seen["hidden", -1] @ state["lm_head.weight"].T
    assert torch.allclose(last, model(tokens)) and torch.allclose(last[:, -1:], model(tokens, last=True))


def test_half_precision_runs_close_to_single():
    model = NemotronH.random(PARENT)
    tokens = tokens_of(PARENT)
    member = PARENT.uniform(hidden=8, ffn=8, mamba_heads=4, attention_heads=2)
    half = NemotronH(PARENT, {k: v.bfloat16() for k, v in model.state_dict().items()})
    for choice in (None, member, Gates.of(PARENT, member)):
        actual, expected = half(tokens, choice), model(tokens, choice)
        assert actual.dtype == torch.bfloat16
        assert (actual.float() - expected).abs().max() < 0.1 * expected.abs().max()
    assert len(half.generate(tokens, 3, choice=member)[0]) == 3


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.to("cpu", torch.bfloat16)])
def test_a_cast_model_keeps_the_biases_of_its_experts(cast):
    name = "backbone.layers.1.mixer.gate.e_score_correction_bias"
    model = NemotronH.random(MOE)
    before = model.get_parameter(name).detach().clone()
    half = cast(model)
    assert half is model and model.get_parameter("backbone.norm_f.weight").dtype.itemsize == 2
    assert model.get_parameter(name).dtype is torch.float32 and torch.equal(model.get_parameter(name), before)
    assert torch.equal(NemotronH.random(MOE, dtype=torch.bfloat16).get_parameter(name), before)
    assert model.double().get_parameter(name).dtype is torch.float64


def test_wrong_choices_are_refused():
    model = NemotronH.random(PARENT)
    small = PARENT.uniform(keep=(0, 1), hidden=8)
    held = model.submodel(small)
    tokens = tokens_of(PARENT)
    with pytest.raises(ElasticError, match="hidden width 9"):
        held(tokens, PARENT.uniform(keep=(0,), hidden=9))
    with pytest.raises(ElasticError, match=r"layers \[2\]"):
        held(tokens, PARENT.uniform(keep=(0, 2), hidden=8))
    with pytest.raises(ElasticError, match="gates have the parent's size"):
        held(tokens, Gates.of(PARENT, small))
    with pytest.raises(ElasticError, match="that the running member made"):
        model(tokens, small, cache=model.init_cache(2))
    with pytest.raises(ElasticError, match="batch of 3"):
        model(tokens, small, cache=model.init_cache(3, small))
