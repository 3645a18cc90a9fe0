# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The mixer's two scans: which one runs, and that sliced and gated calls of the fused one mean the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.family import Parent
from nemo_elastic.nn.gates import Gates

from .models import build, logits_and_grads, randomise, start

pytestmark = pytest.mark.nemo
NAME = "mamba_split_conv1d_scan_combined"
#: the rows of the input projection are no multiple of 8, neither whole (156) nor as the member below (104 - 4)
PARENT = Parent("M-M*-M", 24, 40, 24, 12, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=4)


def test_the_kernel_needs_cuda_and_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core.ssm import mamba_mixer

    from nemo_elastic.megatron.mixer import fused_kernel

    on_gpu, on_cpu = SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)
    monkeypatch.delattr(mamba_mixer, NAME, raising=False)  # what megatron-core is without mamba_ssm
    assert fused_kernel(on_gpu) is None
    monkeypatch.setattr(mamba_mixer, NAME, reference, raising=False)
    assert fused_kernel(on_gpu) is reference
    assert fused_kernel(on_cpu) is None


def reference(zxbcdt: torch.Tensor, conv_weight: torch.Tensor, conv_bias: torch.Tensor, dt_bias: torch.Tensor,
              A: torch.Tensor, D: torch.Tensor, chunk_size: int, **more: Any) -> torch.Tensor:  # fmt: skip
    """What mamba_ssm documents of its kernel, position by position."""
    assert more.pop("activation") == "silu"
    assert more.pop("norm_before_gate") is False
    head_dim, groups, heads = more.pop("headdim"), more.pop("ngroups"), len(A)
    assert not more
    assert chunk_size > 0
    assert zxbcdt.stride(-1) == 1
    assert zxbcdt.stride(1) % 8 == 0  # what causal_conv1d demands
    inner, taps = heads * head_dim, conv_weight.shape[1]
    z, xbc, dt = zxbcdt.split([inner, len(conv_weight), heads], -1)
    padded = F.pad(xbc, (0, 0, taps - 1, 0))
    xbc = sum(padded[:, i : i + xbc.shape[1]] * conv_weight[:, i] for i in range(taps)) + conv_bias
    rest = (len(conv_weight) - inner) // 2
    x, b, c = F.silu(xbc).split([inner, rest, rest], -1)
    x = x.unflatten(-1, (heads, head_dim))
    b, c = (t.unflatten(-1, (groups, -1)).repeat_interleave(heads // groups, 2) for t in (b, c))
    dt = F.softplus(dt + dt_bias)
    state, out = 0, []
    for i in range(x.shape[1]):
        add = (dt[:, i, :, None] * x[:, i])[..., None] * b[:, i, :, None]
        state = torch.exp(dt[:, i] * A)[..., None, None] * state + add
        out.append((state * c[:, i, :, None]).sum(-1) + D[:, None] * x[:, i])
    return torch.stack(out, 1).flatten(2) * F.silu(z)


@pytest.mark.parametrize("choice", ["whole", "sliced", "gated"])
def test_both_scans_give_the_same(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.megatron import mixer

    start()
    model = build(PARENT)
    randomise(model, std=0.2)
    member = PARENT.uniform(hidden=20, mamba_heads=8, mamba_head_dim=3)
    chosen = {"whole": None, "sliced": member, "gated": Gates.of(PARENT, member)}[choice]
    tokens = torch.randint(0, PARENT.vocab, (2, 7), generator=torch.Generator().manual_seed(0))
    want = logits_and_grads(model, tokens, chosen, lambda z: z.square().mean())
    calls = []
    monkeypatch.setattr(mixer, "fused_kernel", lambda x: lambda *a, **k: calls.append(x) or reference(*a, **k))
    got = logits_and_grads(model, tokens, chosen, lambda z: z.square().mean())
    assert len(calls) == 3
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)
    for name, grad in want[1].items():
        torch.testing.assert_close(got[1][name], grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
