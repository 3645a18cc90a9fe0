# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of one mamba_ssm against torch, case by case; runs in a process of its own.

Usage: python -m tests.kernels.compare SOURCES FILE. Writes a list in the order of `cases.CASES`: relative deviations
of the output (`out`) and of every gradient (`grads`), and `padded`, what the fused call alone would do with rows that
it does not take: right, misaligned, or the first line of its refusal.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from nemo_elastic.kernels import VECTOR, MambaWidths
from nemo_elastic.layout import BY_NAME, selection
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.mixing import Kernels, MixerWeights, mix

from .cases import CASES, Case
from .conv_cuda import Misaligned
from .interpreter import load

EPS = 1e-5
#: kept in float32 whatever the activations are
SINGLE = ("a_log", "d", "dt_bias")


def tensors(case: Case) -> dict[str, torch.Tensor]:
    """The parent's weights, an input [s, b, d], and gates: of the member, some of its own ones half open."""
    torch.manual_seed(0)
    parent, (heads, head_dim, groups, state) = case.shape, case.parent
    inner, maps = heads * head_dim, 2 * groups * state
    out = {
        "in_proj": torch.randn(2 * inner + maps + heads, parent.hidden) * 0.2,
        "conv_weight": torch.randn(inner + maps, 1, parent.conv_kernel) * 0.4,
        "conv_bias": torch.randn(inner + maps) * 0.1,
        "a_log": torch.rand(heads),
        "d": torch.randn(heads),
        "dt_bias": torch.randn(heads) * 0.1 - 1,
        "norm": torch.rand(inner) + 0.5,
        "x": torch.randn(case.length, case.batch, parent.hidden),
    }
    if case.gated:
        gate = Gates.of(parent, case.subnet).layers[0].channels()
        out["gate"] = gate * torch.where(torch.arange(inner) % 3 == 0, 0.5, 1.0)
    return out


def run(case: Case, kernels: Kernels | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One forward and backward, as megatron.mixer has them: output, and the gradient of every tensor."""
    half = torch.bfloat16 if case.bf16 else torch.float32
    own = {k: v.to(torch.float32 if k in SINGLE else half).requires_grad_() for k, v in tensors(case).items()}

    def cut(name: str) -> torch.Tensor:
        if case.gated:
            return own[name]
        return selection(case.shape, BY_NAME[f"mamba.{name}"], 0, case.shape.full, case.subnet, 0).take(own[name], 0)

    zxbcdt = F.linear(own["x"], cut("in_proj"))
    gate = own.get("gate")
    if gate is not None:
        rigid = torch.ones(zxbcdt.shape[-1] - 2 * len(gate), dtype=gate.dtype)
        zxbcdt = zxbcdt * torch.cat([gate, gate, rigid])
    weights = MixerWeights(cut("conv_weight"), cut("conv_bias"), -torch.exp(cut("a_log")), cut("d"), cut("dt_bias"),
                           cut("norm"))  # fmt: skip
    y = mix(zxbcdt.transpose(0, 1), weights, case.widths, EPS, gate, kernels)
    toward = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.detach(), dict(zip(own, torch.autograd.grad((y.float() * toward).sum(), list(own.values()))))


def deviation(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference, relative."""
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def padded(case: Case, kernels: Kernels, wanted: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> str:
    """What the fused call does with padded rows, which is all that a forward needs."""

    def fused(zxbcdt_blo: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        width = zxbcdt_blo.shape[-1]
        return kernels.fused(F.pad(zxbcdt_blo, (0, -width % VECTOR))[..., :width], *args, **kwargs)

    try:
        with mock.patch.object(MambaWidths, "fused", True):
            out, grads = run(case, replace(kernels, fused=fused))
    except Misaligned as error:
        return f"{error.tensor} misaligned"
    except RuntimeError as error:
        return f"refused: {error}".splitlines()[0]
    worst = max(deviation(out, wanted[0]), *(deviation(grads[k], g) for k, g in wanted[1].items()))
    return "right" if worst < (0.05 if case.bf16 else 1e-4) else f"off by {worst:.1e}"


def compare(case: Case, kernels: Kernels) -> dict[str, Any]:
    """One entry of the list."""
    kernels = replace(kernels, chunk_size=case.chunk)
    wanted, got = run(case, None), run(case, kernels)
    return {
        "out": deviation(got[0], wanted[0]),
        "grads": {k: deviation(got[1][k], g) for k, g in wanted[1].items()},
        "padded": None if case.widths.fused else padded(case, kernels, wanted),
    }


def main(sources: Path, file: Path) -> None:
    torch.set_num_threads(1)
    kernels = load(sources, CASES[0].chunk)
    told = []
    for case in CASES:
        told.append(compare(case, kernels))
    file.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
