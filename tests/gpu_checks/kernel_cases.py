# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba layers on one rank, whole, sliced or gated: by kernels and by torch, with outputs and all gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.layout import by_name, selection
from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.mixer import Kernels, MixerWeights, mix

__all__ = ["CASES", "SPEED", "Case", "CaseLayer", "Limits", "compare", "deviation", "faults", "run"]

EPS = 1e-5
#: kept in float32 whatever the activations are
SINGLE = ("a_log", "d", "dt_bias")
#: bf16 or not -> relative deviation of the output, and of the worst gradient
Limits = dict[bool, tuple[float, float]]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        parent: heads, channels of a head, groups, state.
        member: heads, channels of a head: what is run, as a slice or by gates.
        gated: the whole layer runs, and gates leave the member (some of them soft).
        bf16: activations and convolution in bfloat16, as in training.
        length, chunk, batch: positions, positions of a chunk of the scan, sequences.
        ends: of the documents in each sequence; none for one document.
    """

    title: str
    parent: tuple[int, int, int, int]
    member: tuple[int, int]
    gated: bool = False
    bf16: bool = False
    length: int = 24
    chunk: int = 16
    batch: int = 1
    ends: tuple[int, ...] = ()

    @cached_property
    def shape(self) -> Parent:
        heads, head_dim, groups, state = self.parent
        return Parent("M", 32, 64, mamba_heads=heads, mamba_head_dim=head_dim, mamba_groups=groups, state=state)

    @cached_property
    def subnet(self) -> Subnet:
        return self.shape.uniform(mamba_heads=self.member[0], mamba_head_dim=self.member[1])

    @property
    def widths(self) -> MambaWidths:
        """Of the tensors that the kernels get."""
        return MambaWidths(*(self.parent[:2] if self.gated else self.member), *self.parent[2:])


#: Small, for every program of a kernel is interpreted: a head, a chunk and a sequence are some of them each.
CASES = (
    Case("whole", (8, 16, 2, 16), (8, 16), batch=2),
    Case("heads 8 to 6", (8, 16, 2, 16), (6, 16), batch=2),
    Case("heads 16 to 14", (16, 16, 2, 16), (14, 16)),
    Case("whole, head_dim 80", (8, 80, 2, 16), (8, 80)),
    Case("head_dim 80 to 64", (8, 80, 2, 16), (8, 64)),
    Case("heads 8 to 6, head_dim 80 to 72", (8, 80, 2, 16), (6, 72)),
    Case("head_dim 16 to 13", (8, 16, 2, 16), (8, 13)),
    Case("heads 4 to 2, state 128", (4, 16, 1, 128), (2, 16), length=37),
    Case("gated, heads 8 to 6, head_dim 16 to 12", (8, 16, 2, 16), (6, 12), gated=True),
    Case("gated, heads 6 to 4, head_dim 16 to 12", (6, 16, 2, 16), (4, 12), gated=True),
    Case("whole", (8, 16, 2, 16), (8, 16), bf16=True),
    Case("heads 8 to 6", (8, 16, 2, 16), (6, 16), bf16=True, batch=2),
    Case("head_dim 80 to 64", (8, 80, 2, 16), (8, 64), bf16=True),
    Case("heads 8 to 4, head_dim 16 to 13", (8, 16, 1, 6), (4, 13), bf16=True),
    Case("gated, heads 8 to 6", (8, 16, 2, 16), (6, 16), bf16=True, gated=True),
    Case("gated, heads 6 to 4", (6, 16, 2, 16), (4, 16), bf16=True, gated=True),
    Case("whole, four documents", (8, 16, 2, 16), (8, 16), length=40, batch=2, ends=(1, 7, 32, 40)),
    Case("heads 8 to 6, four documents", (8, 16, 2, 16), (6, 16), length=40, batch=2, ends=(3, 16, 18, 40)),
    Case("gated, four documents", (8, 16, 2, 16), (6, 12), bf16=True, gated=True, length=40, ends=(3, 9, 32, 40)),
)

#: As in training of the 12B: a layer, and a rank's share at tensor-parallel size 4, where 28 heads take two calls.
SPEED = (
    Case("128 heads", (128, 80, 8, 128), (128, 80), bf16=True, length=4096, chunk=128),
    Case("96 heads", (128, 80, 8, 128), (96, 80), bf16=True, length=4096, chunk=128),
    Case("80 heads", (128, 80, 8, 128), (80, 80), bf16=True, length=4096, chunk=128),
    Case("32 heads of a rank", (32, 80, 2, 128), (32, 80), bf16=True, length=4096, chunk=128),
    Case("28 of them", (32, 80, 2, 128), (28, 80), bf16=True, length=4096, chunk=128),
)


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
        """The layer without its output projection, as megatron.modules has it; None computes in torch."""
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
        documents = Documents((case.ends,) * case.batch) if case.ends else None
        return mix(zxbcdt.transpose(0, 1), weights, case.widths, EPS, gate, kernels, documents=documents)

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
    wrong = [] if got["out"] < out else [f"the output differs by {got['out']:.1e}"]
    return wrong + [f"the gradient of {k} differs by {g:.1e}" for k, g in got["grads"].items() if not g < grads]
