# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with experts on megatron-core 0.19 against the reference in plain torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.nn.gates import Choice, Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.plan.activations import Sharding, saved
from nemo_elastic.ranking.scores import Statistics, through
from tests.plan.measuring import ROUTINGS, model_of, saved_bytes
from tests.shapes import LATENT, MOE, TOP_K
from tests.support.states import from_megatron

from .models import build, leaves, logits_and_grads, objective, softened, start, state_of, weights_of
from .moe import made, member_of, tokens_of

pytestmark = pytest.mark.nemo
pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")
PARENTS = pytest.mark.parametrize("parent", [MOE, LATENT], ids=["plain", "latent"])


@pytest.mark.parametrize("parent", [MOE, LATENT, TOP_K], ids=["plain", "latent", "top_k"])
def test_logits_and_gradients_are_the_references_whole_sliced_and_gated(parent: Parent) -> None:
    """Experts that the member drops have such biases that all tokens of the whole model go to them."""
    start()
    model, tokens, member = made(parent), tokens_of(parent), member_of(parent)
    with torch.no_grad():
        kept = Gates.of(parent, member).layers[1].widths["experts"]
        model.decoder.layers[1].mlp.router.expert_bias += 5 * (1 - kept)
    hf = from_megatron(parent, parent.full, state_of(model))
    reference = NemotronH(parent, hf)
    soft, again = softened(parent, member), softened(parent, member)
    choices: dict[str, Any] = {"whole": None, "sliced": member, "hard": Gates.of(parent, member), "soft": soft}
    for name, own in choices.items():
        other = again if own is soft else own
        z, grads = logits_and_grads(model, tokens, own)
        reference.zero_grad(set_to_none=True)
        want = reference(tokens, other)
        objective(want).backward()
        torch.testing.assert_close(z, want, rtol=1e-5, atol=1e-5, msg=name)
        actual = from_megatron(parent, parent.full, grads)
        for key, weight in reference.named_parameters():
            if not key.endswith("e_score_correction_bias"):
                wanted = torch.zeros_like(weight) if weight.grad is None else weight.grad
                torch.testing.assert_close(actual[key], wanted, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
    for a, b in zip(leaves(soft), leaves(again), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_the_balance_of_experts_is_that_of_the_whole_models_tokens() -> None:
    """A member's counts would push away the experts that it keeps; recomputation counts nothing twice."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    for recompute in (None, "full"):
        more = {} if recompute is None else {"recompute_method": "uniform", "recompute_num_layers": 1}
        model = made(MOE, recompute_granularity=recompute, **more)
        model.train()
        router = model.decoder.layers[1].mlp.router
        tokens, member = tokens_of(MOE), member_of(MOE)
        for choice in (member, Gates.of(MOE, member), softened(MOE, member)):
            logits_and_grads(model, tokens, choice)
            assert not router.local_tokens_per_expert.any()
        logits_and_grads(model, tokens, None)
        assert router.local_tokens_per_expert.sum() == 2 * tokens.numel()
        with torch.no_grad(), cuda_as_cpu():
            model(tokens, None, None)
        assert router.local_tokens_per_expert.sum() == 2 * tokens.numel()


def test_a_cast_rounds_no_bias_and_counts_every_token() -> None:
    """Biases may be large: 34.5 is all that bfloat16 has between 34.375 and 34.625."""
    from nemo_elastic.megatron.choice import WHOLE

    start()
    model = made(MOE).train()
    routers = [model.decoder.layers[i].mlp.router for i in (1, 4)]
    for router in routers:
        router.expert_bias += 34.5
    before = [router.expert_bias.clone() for router in routers]
    model.bfloat16()
    assert model.embedding.word_embeddings.weight.dtype is torch.bfloat16
    for router, bias in zip(routers, before, strict=True):
        assert router.expert_bias.dtype is torch.float32 and torch.equal(router.expert_bias, bias)
    for seed in (0, 1):
        x = torch.randn(301, 1, MOE.hidden, generator=torch.Generator().manual_seed(seed)).bfloat16()
        routers[0](x, WHOLE, 1)
    assert routers[0].local_tokens_per_expert.max() > 256
    assert routers[0].local_tokens_per_expert.sum() == 2 * 2 * 301


def test_auxiliary_losses_are_logged_once_and_go_backward_all_the_same() -> None:
    """Also where layers are recomputed."""
    from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker

    start()
    more: dict[str, Any] = {"moe_router_load_balancing_type": "seq_aux_loss", "moe_aux_loss_coeff": 0.5}
    full = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    seen = []
    for config in (more, more | full, {}):
        get_moe_metrics_tracker().clear()
        _, grads = logits_and_grads(made(MOE, moe_z_loss_coeff=0.1, **config).train(), tokens_of(MOE), None)
        logged = {name: entry.values.clone() for name, entry in get_moe_metrics_tracker().metrics.items()}
        seen.append((logged, grads["decoder.layers.1.mlp.router.weight"]))
    get_moe_metrics_tracker().clear()
    (once, wanted), (again, gradient), (_, without) = seen
    assert once.keys() == again.keys() == {"seq_load_balancing_loss", "z_loss"}
    for name, values in once.items():
        assert (values > 0).sum() == 2
        torch.testing.assert_close(again[name], values, msg=name)
    torch.testing.assert_close(gradient, wanted)
    assert (wanted - without).abs().max() > 1e-3


@PARENTS
def test_a_cut_members_auxiliary_loss_differs_by_the_share_of_experts_alone(parent: Parent) -> None:
    """The stock losses count the parent's experts: those of a member are those of a model of its own, times E/e."""
    start()
    config = {"moe_router_load_balancing_type": "seq_aux_loss", "moe_aux_loss_coeff": 0.5}
    small = parent.uniform(experts=4)
    whole = made(parent, **config)
    own = replace(parent, experts=4)
    cut = build(own, **config)
    kept = [0, 1, 4, 5]
    state = weights_of(whole)
    with torch.no_grad():
        for name, value in weights_of(cut).items():
            for at, was in enumerate(kept):
                if f"local_experts.{at}." in name:
                    value.copy_(state[name.replace(f"local_experts.{at}.", f"local_experts.{was}.")])
            if "router" in name:
                value.copy_(state[name][kept])
            elif "local_experts" not in name:
                value.copy_(state[name])
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    def router_gradient(model: Any, choice: Choice, scale: float) -> torch.Tensor:
        MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(scale))
        return logits_and_grads(model.train(), tokens_of(parent), choice)[1]["decoder.layers.1.mlp.router.weight"]

    plain, alone = router_gradient(whole, small, 0.0)[kept], router_gradient(cut, None, 0.0)
    torch.testing.assert_close(plain, alone, rtol=1e-4, atol=1e-5)
    actual, wanted = router_gradient(whole, small, 1.0)[kept] - plain, router_gradient(cut, None, 1.0) - alone
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(actual, 2 * wanted, rtol=1e-3, atol=1e-5)


@PARENTS
def test_a_probe_sees_what_the_references_sees(parent: Parent) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.layers import MegatronLayers
    from nemo_elastic.nn.forward import Layers

    start()
    model, tokens = made(parent).eval(), tokens_of(parent, 3)
    hf = from_megatron(parent, parent.full, state_of(model))
    actual, wanted = Statistics(parent), Statistics(parent)
    with torch.no_grad(), cuda_as_cpu():
        for layers, statistics in (
            (MegatronLayers(model), actual),
            (Layers(NemotronH(parent, hf).weights(None)), wanted),
        ):
            through(layers, range(parent.num_layers), layers.embed(tokens), statistics)
    assert actual.samples == wanted.samples
    for name, total in wanted.sums.items():
        torch.testing.assert_close(actual.sums[name], total, rtol=1e-4, atol=1e-6, msg=name)


#: every width differs from every other, as in tests/plan/measuring
ODD = Parent("MEM*EM", 96, 256, 1, 16, 12, 4, 8, 4, 8, 4, 20,
             experts=12, expert_ffn=56, shared_ffn=72, top_k=3, routed_scaling=2.5)  # fmt: skip


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("how", ROUTINGS)
def test_layers_keep_what_the_plan_counts(gated: bool, how: str) -> None:
    start()
    parent, (settings, routing) = replace(ODD, latent=40, top_k_stripes=1), ROUTINGS[how]
    model = model_of(parent, False, **settings)
    for batch, length in ((1, 512), (2, 256)):
        wanted = saved(parent, parent.types, Sharding(routing=routing), recompute=False, gated=gated, kernels=False)
        measured = saved_bytes(model, parent, batch, length, gated)
        assert measured == pytest.approx(batch * length * wanted, rel=0.0025)
