# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Through the whole model: forward values and the gradients that the router learns from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Parent
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.router import Router
from nemo_elastic.search import Space
from tests.ranking.test_sorting import tokens_of
from tests.search.common import spaces
from tests.shapes import PARENT

AXES = {
    "hidden": AxisConfig((16, 12, 8)),
    "ffn": AxisConfig((16, 12, 8, 4), per_layer=True),
    "mamba_heads": AxisConfig((6, 4, 2), per_layer=True),
    "mamba_head_dim": AxisConfig((4, 3)),
    "attention_heads": AxisConfig((4, 2)),
    "depth": AxisConfig((5, 4, 3)),
}
BUDGETS = (Budget("full"), Budget("large", ratio=0.8), Budget("small", ratio=0.6))


def setting(dtype=torch.float64) -> tuple[NemotronH, Router, torch.Tensor]:
    space = Space(PARENT, AXES, (2, 1, 0, 3, 4))
    model = NemotronH.random(PARENT, seed=1, dtype=dtype)
    router = Router(space, BUDGETS, RouterConfig(hidden=8), seed=3).to(dtype)
    return model, router, tokens_of(PARENT, batch=2, length=12)


def divergence(student_blv: torch.Tensor, teacher_blv: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student), mean over tokens."""
    student_tv, teacher_tv = (x.flatten(0, 1).log_softmax(-1) for x in (student_blv, teacher_blv))
    return F.kl_div(student_tv, teacher_tv, log_target=True, reduction="batchmean")


def loss_of(model: NemotronH, router: Router, tokens, hard=False, weight=1.0) -> torch.Tensor:
    """Distillation from the whole model plus the budget loss, as in training."""
    routed = router.gates("small", tau=0.8, scale=2.0, noise=(5, 1), hard=hard)
    with torch.no_grad():
        teacher = model(tokens)
    kl = divergence(model(tokens, routed.gates), teacher)
    return kl + weight * router.budget_loss(routed, "small")


@settings(max_examples=25)
@given(space=spaces(), seed=st.integers(0, 9))
def test_pitfall_5_a_hard_forward_computes_exactly_the_submodel(space, seed):
    """Whatever the probabilities are: the gates hold no factor that a site could multiply up."""
    parent = space.parent
    model = NemotronH.random(parent, seed=seed, dtype=torch.float64)
    router = Router(space, (Budget("full"),), RouterConfig(gate="hard"), seed).double()
    tokens = tokens_of(parent)
    routed = router.gates("full", tau=1.0, noise=(seed, 0))
    sliced, masked = model(tokens, routed.choice), model(tokens, routed.gates)
    assert float((sliced - masked).detach().abs().max()) <= 1e-10 * max(1.0, float(sliced.detach().abs().max()))


def test_soft_gradients_are_those_of_finite_differences():
    """Every parameter of every axis, KD and budget loss together, float64."""
    model, router, tokens = setting()
    loss_of(model, router, tokens).backward()
    generator = torch.Generator().manual_seed(0)
    for name, p in router.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype) + 5 * p.grad / p.grad.norm()
        direction /= direction.norm()
        with torch.no_grad():
            sides = []
            for sign in (1, -1):
                p += sign * 1e-5 * direction
                sides.append(float(loss_of(model, router, tokens)))
                p -= sign * 1e-5 * direction
        measured = (sides[0] - sides[1]) / 2e-5
        assert measured == pytest.approx(float((p.grad * direction).sum()), rel=1e-4, abs=1e-9), name


def test_every_axis_learns_from_the_distillation_alone():
    """Also from what a soft choice mostly leaves out: blocks that are not computed would teach it nothing."""
    model, router, tokens = setting()
    loss_of(model, router, tokens, weight=0.0).backward()
    for axis in router.axes:
        assert router.up[axis].grad.abs().max() > 0, axis


def test_hard_gradients_flow_through_the_probabilities_of_dropped_channels_too():
    model, router, tokens = setting()
    loss_of(model, router, tokens, hard=True).backward()
    for name, p in router.named_parameters():
        assert torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name
    dropped = [i for i, x in enumerate(router.gates("small", 0.8, 2.0, (5, 1), True).gates.layers) if not x.keep]
    assert dropped or router.up["depth"].grad.abs().max() > 0


def test_other_budgets_get_no_gradient_from_a_micro_batch():
    model, router, tokens = setting()
    loss_of(model, router, tokens).backward()
    for axis in router.axes:
        assert not router.down[axis].grad[:2].any() and router.down[axis].grad[2].any()


def test_learning_moves_towards_shapes_that_lose_less():
    """One axis, one harmless choice: an MLP half of whose neurons are dead in one layer and alive in the other."""
    parent = Parent(pattern="--", hidden=8, vocab=16, ffn=8)
    model = NemotronH.random(parent, seed=0)
    with torch.no_grad():
        model.get_parameter("backbone.layers.1.mixer.down_proj.weight")[:, 4:] = 0
    space = Space(parent, {"ffn": AxisConfig((8, 4), per_layer=True)})
    half = Budget("half", params=Budget("x").cost(parent, parent.full) - 4 * 2 * 8)
    router = Router(space, (Budget("full"), half), RouterConfig(hidden=16), seed=0)
    optimizer = torch.optim.Adam(router.parameters(), 2e-2)
    tokens = tokens_of(parent, batch=4, length=16)
    teacher = model(tokens).detach()
    for step in range(200):
        tau, scale = router.schedule(step / 200)
        routed = router.gates("half", tau, scale, noise=(step, 0))
        loss = divergence(model(tokens, routed.gates), teacher) + router.budget_loss(routed, "half")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert router.choose("half").widths("ffn") == (8, 4)
    assert router.family()["half"].miss == 0
