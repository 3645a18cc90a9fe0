# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The megatron-core layers: masked = sliced, full = stock = plain torch, whatever is cut, and gradients land right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import layer_axes, per_layer_axes
from nemo_elastic.core.layout import megatron_selection, megatron_shape, megatron_tensors, tensors
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking.scores import Statistics, through
from tests.support.states import from_megatron

from .models import alone, build, load, logits_and_grads, named_parameters, randomise, softened, start, state_of

pytestmark = pytest.mark.nemo
PARENTS = (
    Parent("M-M*-M", 24, 40, 24, 12, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=4),
    Parent("M*-", 10, 16, 6, 9, 5, 3, 4, 4, 3, 1, 8, ffn_stripes=3),
    Parent("MM-*", 16, 24, 16, 6, 4, 2, 8, 4, 4, 4, 4, ffn_stripes=1, norm="parent"),
    Parent("*-M*", 20, 24, 16, 6, 4, 2, 8, 4, 8, 4, 4, ffn_stripes=2, kv_heads_stripes=2),
)


def objective(z: torch.Tensor) -> torch.Tensor:
    """Something that reaches every logit with its own weight."""
    w = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view(z.shape)
    return (z * w).mean() + z.square().mean() * 0.1


def _models(dtype: torch.dtype) -> dict[Parent, object]:
    start()
    out = {}
    for p in PARENTS:
        out[p] = build(p).to(dtype)
        out[p].config.params_dtype = dtype
        randomise(out[p], std=0.05 if dtype == torch.float32 else 0.2)
    return out


@pytest.fixture(scope="module")
def models() -> dict[Parent, object]:
    return _models(torch.float32)


@pytest.fixture(scope="module")
def double_models() -> dict[Parent, object]:
    return _models(torch.float64)


@st.composite
def members(draw: st.DrawFn, tiny: bool = False) -> tuple[Parent, Subnet]:
    """A member of one of the parents; `tiny` ones keep as little as one channel of a norm.

    A norm over one channel gives a sign: its true gradient is zero and what fp32 computes is rounding error.
    """
    parent = draw(st.sampled_from(PARENTS))

    def width(axis: str) -> int:
        prefix = parent.axis(axis)
        n = prefix.size // prefix.blocks
        least = (n + 1) // 2 if axis in ("hidden", "mamba_head_dim") and not tiny else 1
        return prefix.blocks * draw(st.just(n) | st.integers(least, n))

    shared = {a: width(a) for a in layer_axes() if a in parent.axes}
    per_layer = per_layer_axes() if draw(st.booleans()) else ()
    layers = []
    for i, kind in enumerate(parent.types):
        if draw(st.sampled_from([True, True, True, False])) or (i == 0):
            own = {axis: width(axis) if axis in per_layer else shared[axis] for axis in parent.kind(kind).widths}
            layers.append(Layer(i, kind, parent.widths(kind, own)))
    return parent, Subnet(width("hidden"), tuple(layers)).validate(parent)


def tokens_of(parent: Parent) -> torch.Tensor:
    return torch.randint(0, parent.vocab, (2, 11), generator=torch.Generator().manual_seed(3))


def close(a: torch.Tensor, b: torch.Tensor, what: str, scale: float | None = None, tolerance: float = 1e-5) -> None:
    """Largest difference relative to `scale` (the largest value of b if not given)."""
    scale = max(float(b.abs().max()), 1e-3) if scale is None else scale
    assert float((a - b).abs().max()) <= tolerance * scale, what


def masked_equals_sliced(model: object, parent: Parent, member: Subnet, dtype: torch.dtype, tolerance: float) -> None:
    tokens = tokens_of(parent)
    sliced, grads = logits_and_grads(model, tokens, member, objective)
    masked, masked_grads = logits_and_grads(model, tokens, Gates.of(parent, member, dtype), objective)
    close(sliced, masked, "logits", tolerance=tolerance)
    whole = torch.stack([g.norm() for g in masked_grads.values()]).norm()
    for name in grads:
        assert float((grads[name] - masked_grads[name]).norm() / whole) < tolerance, name


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members())
def test_masked_equals_sliced_in_logits_and_every_gradient_pitfalls_1_2_6_7(models: dict, drawn: tuple) -> None:
    parent, member = drawn
    masked_equals_sliced(models[parent], parent, member, torch.float32, 1e-5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members(tiny=True))
def test_masked_equals_sliced_in_double_precision(double_models: dict, drawn: tuple) -> None:
    parent, member = drawn
    masked_equals_sliced(double_models[parent], parent, member, torch.float64, 1e-11)


def recomputing(model: Any, granularity: str | None) -> Any:
    """A context in which the model recomputes activations so."""
    return mock.patch.object(model.config, "recompute_granularity", granularity)


@pytest.mark.parametrize("way", ["whole", "sliced", "soft"])
@pytest.mark.parametrize("recompute", [None, "full"])
def test_packed_is_each_document_alone_in_logits_and_every_gradient(
    double_models: dict, way: str, recompute: str | None
) -> None:
    parent = PARENTS[0]
    model, tokens = double_models[parent], tokens_of(parent)
    member = parent.uniform(keep=[0, 1, 3, 4], hidden=12, ffn=12, mamba_heads=8, mamba_head_dim=3, attention_heads=4)
    soft = Gates.of(parent, parent.full, torch.float64)
    soft.hidden.mul_(torch.linspace(0.5, 1, parent.hidden))
    choice = {"whole": None, "sliced": member, "soft": soft}[way]
    documents = Documents(((1, 4, 11), (6, 11)))
    weight = torch.randn(*tokens.shape, parent.vocab, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with recomputing(model, recompute):
        packed, grads = logits_and_grads(model, tokens, choice, lambda z: (z * weight).sum(), documents)
    wanted = dict.fromkeys(grads, torch.zeros((), dtype=torch.float64))
    for part in alone(documents):
        single, more = logits_and_grads(model, tokens[part], choice, lambda z, p=part: (z * weight[p]).sum())
        close(packed[part], single, "logits", tolerance=1e-11)
        wanted = {name: wanted[name] + grad for name, grad in more.items()}
    for name, grad in grads.items():
        single = name.endswith((".A_log", ".D", ".dt_bias"))  # megatron-core keeps them so, whatever the others are
        close(grad, wanted[name], name, tolerance=1e-6 if single else 1e-10)
    joined, _ = logits_and_grads(model, tokens, choice, objective)
    assert float((joined - packed).abs().max()) > 1e-3


def test_recomputation_keeps_what_the_forward_pass_kept_where_no_more_may_be_compiled(double_models: dict) -> None:
    parent = PARENTS[0]
    model, tokens = double_models[parent], tokens_of(parent)
    _, kept = logits_and_grads(model, tokens, None, objective)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=1), recomputing(model, "full"):
        _, again = logits_and_grads(model, tokens, None, objective)
    for name, grad in again.items():
        close(grad, kept[name], name, tolerance=1e-6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members())
def test_cut_weights_do_not_matter(models: dict, drawn: tuple) -> None:
    parent, member = drawn
    model, tokens = models[parent], tokens_of(parent)
    before, _ = logits_and_grads(model, tokens, member, objective)
    saved = state_of(model)
    try:
        load(model, {name: torch.where(kept_mask(parent, member, name), p, 1e6) for name, p in saved.items()})
        after, _ = logits_and_grads(model, tokens, member, objective)
    finally:
        load(model, saved)
    assert torch.equal(before, after)


def kept_mask(parent: Parent, member: Subnet, name: str) -> torch.Tensor:
    """Which elements of a Megatron tensor belong to a member, from the layout table."""
    together = megatron_tensors(parent, parent.full)[name]
    shape, index = megatron_shape(together), together[0].index
    if index is not None and index not in member.by_index:
        return torch.zeros(shape, dtype=torch.bool)
    mask = torch.ones(shape, dtype=torch.bool)
    for dim in range(len(shape)):
        kept = megatron_selection(parent, together[0].row, dim, parent.full, member, index)
        mask &= torch.from_numpy(kept.mask()).view([-1 if i == dim else 1 for i in range(len(shape))])
    return mask


def test_the_full_member_is_the_stock_model_bit_for_bit(models: dict) -> None:
    for parent, model in models.items():
        tokens = tokens_of(parent)
        stock = build(parent, elastic=False)
        stock.load_state_dict(model.state_dict())
        with torch.no_grad():
            want = stock(tokens, None, None)
        for choice in (None, parent.full):
            got, _ = logits_and_grads(model, tokens, choice, objective)
            assert torch.equal(got, want)
        gated, _ = logits_and_grads(model, tokens, Gates.of(parent, parent.full), objective)
        close(gated, want, "gates of ones")


def test_parameter_names_are_those_of_the_layout_table(models: dict) -> None:
    for parent, model in models.items():
        assert {n for n, _ in named_parameters(model)} == {t.megatron for t in tensors(parent, parent.full)}


def test_gradients_go_into_the_window_of_main_grad(models: dict) -> None:
    """What a DistributedDataParallel run does: main_grad buffers, the added flag, a dummy that is not read."""
    parent = PARENTS[0]
    model, tokens = models[parent], tokens_of(parent)
    member = parent.uniform(keep=[0, 1, 3, 4], hidden=12, ffn=12, mamba_heads=8, mamba_head_dim=2, attention_heads=4)
    before = 2.0**-10  # of the size of the gradients: more would round them
    _, want = logits_and_grads(model, tokens, member, objective)
    try:
        for p in model.parameters():
            p.main_grad = torch.full_like(p, before)
            p.grad_added_to_main_grad = False
        _, _ = logits_and_grads(model, tokens, member, objective)
        through_window = 0
        for name, p in named_parameters(model):
            if p.grad_added_to_main_grad:
                through_window += 1
                close(p.main_grad - before, want[name], name)
            else:
                assert torch.equal(p.main_grad, torch.full_like(p, before)), name
                if p.grad is not None:
                    close(p.grad, want[name], name)
        # embedding, head, and two linears in each of the four kept layers
        assert through_window == 2 + 2 * 4
    finally:
        for p in model.parameters():
            del p.main_grad, p.grad_added_to_main_grad


@pytest.mark.parametrize("gated", [False, True])
def test_recomputation_uses_the_choice_of_its_own_micro_batch_pitfall_10(models: dict, gated: bool) -> None:
    """Another micro-batch's choice is in force when the first one's backward recomputes."""
    parent = PARENTS[0]
    model, tokens = models[parent], tokens_of(parent)
    small = parent.uniform(hidden=12, ffn=8, mamba_heads=4)
    choice = Gates.of(parent, small) if gated else small
    _, want = logits_and_grads(model, tokens, choice, objective)
    with recomputing(model, "full"):
        model.zero_grad(set_to_none=True)
        model.state.choice = choice
        loss = objective(model(tokens, None, None))
        model.state.choice = None
        model(tokens, None, None)
        loss.backward()
    for name, p in named_parameters(model):
        close(torch.zeros_like(p) if p.grad is None else p.grad, want[name], name)


@pytest.mark.parametrize("parent", PARENTS, ids=lambda p: p.pattern)
def test_logits_are_those_of_plain_torch_whole_sliced_and_gated(models: dict, parent: Parent) -> None:
    """`NemotronH`, which is itself held against transformers."""
    model, state = models[parent], state_of(models[parent])
    hf = from_megatron(parent, parent.full, state)
    shapes = {name: t.shape for name, t in to_megatron(parent, parent.full, hf).items()}
    assert shapes == {name: t.shape for name, t in state.items()}
    reference, tokens = NemotronH(parent, hf), tokens_of(parent)
    blocks = {a: parent.axis(a) for a in ("hidden", "ffn", "mamba_heads", "mamba_head_dim", "attention_heads")}
    half = {name: b.blocks * max(1, b.size // b.blocks // 2) for name, b in blocks.items()}
    member = parent.uniform(keep=range(parent.num_layers - 1), **half)
    for choice in (None, member, Gates.of(parent, member), softened(parent, member)):
        actual, _ = logits_and_grads(model, tokens, choice)
        torch.testing.assert_close(actual, reference(tokens, choice), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("elastic, tied", [(True, False), (True, True), (False, False)])
def test_layers_in_a_row_are_the_forward(elastic: bool, tied: bool) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.layers import MegatronLayers

    start()
    parent = replace(PARENTS[0], tied=tied)
    model, tokens = build(parent, elastic), tokens_of(parent)
    randomise(model)
    layers = MegatronLayers(model.eval())
    with torch.no_grad(), cuda_as_cpu():
        normed = through(layers, range(parent.num_layers), layers.embed(tokens), Statistics(parent))
        assert torch.equal(layers.head(normed), model(tokens, None, None))


def test_dropout_is_refused() -> None:
    from nemo_elastic.errors import ElasticError

    start()
    with pytest.raises((ElasticError, TypeError), match="hidden_dropout"):
        build(PARENTS[1], hidden_dropout=0.1)
