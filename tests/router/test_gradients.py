# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Through the whole model: forward values and the gradients that the router learns from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.router import Router
from nemo_elastic.search import Space
from tests.ranking.test_sorting import tokens_of
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


def setting() -> tuple[NemotronH, Router, torch.Tensor]:
    space = Space(PARENT, AXES, (2, 1, 0, 3, 4))
    model = NemotronH.random(PARENT, seed=1, dtype=torch.float64)
    router = Router(space, BUDGETS, RouterConfig(hidden=8), seed=3).double()
    return model, router, tokens_of(PARENT, batch=2, length=12)


def divergence(student_blv: torch.Tensor, teacher_blv: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student), mean over tokens."""
    student_tv, teacher_tv = (x.flatten(0, 1).log_softmax(-1) for x in (student_blv, teacher_blv))
    return F.kl_div(student_tv, teacher_tv, log_target=True, reduction="batchmean")


def loss_of(model: NemotronH, router: Router, tokens, weight=1.0) -> torch.Tensor:
    """Distillation from the whole model plus the budget loss, as in training."""
    routed = router.gates("small", tau=0.8, scale=2.0, noise=(5, 1), hard=False)
    with torch.no_grad():
        teacher = model(tokens)
    kl = divergence(model(tokens, routed.gates), teacher)
    return kl + weight * router.budget_loss(routed, "small")


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


def test_other_budgets_get_no_gradient_from_a_micro_batch():
    model, router, tokens = setting()
    loss_of(model, router, tokens).backward()
    for axis in router.axes:
        assert not router.down[axis].grad[:2].any() and router.down[axis].grad[2].any()
