# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of a Mamba layer against torch: outputs and the gradient of every tensor, on any device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.layout import by_name, selection
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.mixing import Kernels, MixerWeights, mix

from .cases import Case

__all__ = ["CaseLayer", "Limits", "compare", "deviation", "faults", "run"]

EPS = 1e-5
#: kept in float32 whatever the activations are
SINGLE = ("a_log", "d", "dt_bias")
#: bf16 or not -> relative deviation of the output, and of the worst gradient
Limits = dict[bool, tuple[float, float]]


class CaseLayer:
    """A case's tensors on a device: the parent's weights, an input [s, b, d], gates of the member, some half open."""

    def __init__(self, case: Case, device: str | torch.device = "cpu") -> None:
        self.case = case
        half = torch.bfloat16 if case.bf16 else torch.float32
        self.tensors = {
            name: value.to(device, torch.float32 if name in SINGLE else half).requires_grad_()
            for name, value in _tensors(case).items()
        }

    def forward(self, kernels: Kernels | None) -> torch.Tensor:
        """The layer without its output projection, as megatron.mixer has it; None computes in torch."""
        case, own = self.case, self.tensors

        def cut(name: str) -> torch.Tensor:
            if case.gated:
                return own[name]
            row = by_name(f"mamba.{name}")
            return selection(case.shape, row, 0, case.shape.full, case.subnet, 0).take(own[name], 0)

        zxbcdt = F.linear(own["x"], cut("in_proj"))
        gate = own.get("gate")
        if gate is not None:
            rigid = torch.ones(zxbcdt.shape[-1] - 2 * len(gate), dtype=gate.dtype, device=gate.device)
            zxbcdt = zxbcdt * torch.cat([gate, gate, rigid])
        weights = MixerWeights(cut("conv_weight"), cut("conv_bias"), -torch.exp(cut("a_log")), cut("d"),
                               cut("dt_bias"), cut("norm"))  # fmt: skip
        return mix(zxbcdt.transpose(0, 1), weights, case.widths, EPS, gate, kernels)

    def gradients(self, y: torch.Tensor, toward: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of y's product with `toward`, by every tensor."""
        own = self.tensors
        return dict(zip(own, torch.autograd.grad((y.float() * toward).sum(), list(own.values())), strict=True))


def _tensors(case: Case) -> dict[str, torch.Tensor]:
    """The same on every machine, in float32 on the CPU."""
    g = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g)

    parent, (heads, head_dim, groups, state) = case.shape, case.parent
    inner, maps = heads * head_dim, 2 * groups * state
    out = {
        "in_proj": normal(2 * inner + maps + heads, parent.hidden) * 0.2,
        "conv_weight": normal(inner + maps, 1, parent.conv_kernel) * 0.4,
        "conv_bias": normal(inner + maps) * 0.1,
        "a_log": torch.rand(heads, generator=g),
        "d": normal(heads),
        "dt_bias": normal(heads) * 0.1 - 1,
        "norm": torch.rand(inner, generator=g) + 0.5,
        "x": normal(case.length, case.batch, parent.hidden),
    }
    if case.gated:
        gate = Gates.of(parent, case.subnet).layers[0].channels(MAMBA_HEADS, MAMBA_HEAD_DIM)
        out["gate"] = gate * torch.where(torch.arange(inner) % 3 == 0, 0.5, 1.0)
    return out


def run(
    case: Case, kernels: Kernels | None, device: str | torch.device = "cpu"
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One forward and backward: output, and the gradient of every tensor."""
    layer = CaseLayer(case, device)
    y = layer.forward(kernels)
    toward = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(device)
    return y.detach(), layer.gradients(y, toward)


def deviation(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference, relative."""
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def compare(case: Case, kernels: Kernels, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Relative deviations of the output (`out`) and of every gradient (`grads`) from torch."""
    wanted, got = run(case, None, device), run(case, replace(kernels, chunk_size=case.chunk), device)
    return {
        "out": deviation(got[0], wanted[0]),
        "grads": {k: deviation(got[1][k], g) for k, g in wanted[1].items()},
    }


def faults(case: Case, got: dict[str, Any], limits: Limits) -> list[str]:
    """What differs by more than its limit, or is not a number."""
    out, grads = limits[case.bf16]
    found = [] if got["out"] < out else [f"the output differs by {got['out']:.1e}"]
    return found + [f"the gradient of {k} differs by {g:.1e}" for k, g in got["grads"].items() if not g < grads]
