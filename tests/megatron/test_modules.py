# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The mixer's scans: which calls run, and that sliced and gated calls of the kernels mean the same as torch.

What the kernels themselves compute `make test-gpu` compares; here stand references of what they document.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Parent
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.mixer import Kernels

from .models import build, logits_and_grads, randomise, start

pytestmark = pytest.mark.nemo
NAMES = ("mamba_split_conv1d_scan_combined", "mamba_chunk_scan_combined", "causal_conv1d_fn")
#: The rows of the input projection are no multiple of 8, neither whole (156) nor as a member of 4 heads (68).
ODD = Parent("M-M*-M", 24, 40, 24, 12, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=4)
#: They are, whole (256) and as a member of 8 heads (168).
EVEN = Parent("M-M*-M", 24, 40, 24, 16, 4, 4, 14, 4, 6, 2, 4, ffn_stripes=4)


def test_the_kernels_need_cuda_and_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core.ssm import mamba_mixer

    from nemo_elastic.megatron.modules import kernels_for

    on_gpu, on_cpu = SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)
    for name in NAMES[:2]:  # what megatron-core is without mamba_ssm
        monkeypatch.delattr(mamba_mixer, name, raising=False)
    assert kernels_for(on_gpu, 128) is None
    for name, call in zip(NAMES, (reference, reference_scan, reference_conv)):
        monkeypatch.setattr(mamba_mixer, name, call, raising=False)
    assert kernels_for(on_gpu, 128) == Kernels(reference, reference_scan, reference_conv, 128)
    assert kernels_for(on_cpu, 128) is None


def reference(zxbcdt: torch.Tensor, conv_weight: torch.Tensor, conv_bias: torch.Tensor, dt_bias: torch.Tensor,
              A: torch.Tensor, D: torch.Tensor, chunk_size: int, **more: Any) -> torch.Tensor:  # fmt: skip
    """What mamba_ssm documents of its fused call, made of the other two."""
    assert more.pop("activation") == "silu"
    assert more.pop("norm_before_gate") is False
    head_dim, groups, heads, seq_idx = more.pop("headdim"), more.pop("ngroups"), len(A), more.pop("seq_idx")
    assert not more
    inner = heads * head_dim
    # the convolution reads its part here, and its backward writes into a part of an `empty_like` of the whole
    assert zxbcdt.is_contiguous()
    assert zxbcdt.shape[-1] % 8 == 0 and inner % 8 == 0
    z, xbc, dt = zxbcdt.split([inner, len(conv_weight), heads], -1)
    xbc = reference_conv(xbc.transpose(1, 2), conv_weight, conv_bias, seq_idx, "silu").transpose(1, 2)
    rest = (len(conv_weight) - inner) // 2
    x, b, c = xbc.split([inner, rest, rest], -1)
    x, z = (t.unflatten(-1, (heads, head_dim)) for t in (x, z))
    b, c = (t.unflatten(-1, (groups, -1)) for t in (b, c))
    return reference_scan(
        x, dt, A, b, c, chunk_size, D=D, z=z, dt_bias=dt_bias, dt_softplus=True, seq_idx=seq_idx
    ).flatten(2)


def reference_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, seq_idx: torch.Tensor | None,
                   activation: str) -> torch.Tensor:  # fmt: skip
    """What causal_conv1d does with [b, c, l], and what it asks of rows of channels."""
    assert activation == "silu"
    assert x.shape[1] % 8 == 0 and x.stride(1) == 1
    assert x.stride(0) % 8 == 0 and x.stride(2) % 8 == 0 and x.storage_offset() % 8 == 0
    past, length = weight.shape[1] - 1, x.shape[2]
    index = x.new_zeros(len(x), length, dtype=torch.int32) if seq_idx is None else seq_idx
    padded, of = F.pad(x, (past, 0)), F.pad(index, (past, 0), value=-1)
    own = [(of[:, i : i + length] == index)[:, None] for i in range(past + 1)]
    out = sum(padded[..., i : i + length] * own[i] * weight[:, i, None] for i in range(past + 1))
    return F.silu(out + bias[:, None])


def reference_scan(x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
                   chunk_size: int, D: torch.Tensor, z: torch.Tensor, dt_bias: torch.Tensor,
                   dt_softplus: bool, seq_idx: torch.Tensor | None) -> torch.Tensor:  # fmt: skip
    """What mamba_ssm documents of its scan, position by position."""
    assert chunk_size > 0 and dt_softplus
    b, c = (t.repeat_interleave(len(A) // t.shape[2], 2) for t in (B, C))
    dt = F.softplus(dt + dt_bias)
    state, out = 0, []
    for i in range(x.shape[1]):
        add = (dt[:, i, :, None] * x[:, i])[..., None] * b[:, i, :, None]
        if i > 0 and seq_idx is not None:
            state = state * (seq_idx[:, i] == seq_idx[:, i - 1])[:, None, None, None]
        state = torch.exp(dt[:, i] * A)[..., None, None] * state + add
        out.append((state * c[:, i, :, None]).sum(-1) + D[:, None] * x[:, i])
    return torch.stack(out, 1) * F.silu(z)


@pytest.mark.parametrize("choice", ["whole", "sliced", "gated", "packed"])
@pytest.mark.parametrize(
    ("parent", "calls"), [(ODD, {"conv": 3, "scan": 3}), (EVEN, {"fused": 3})], ids=["odd", "even"]
)
def test_kernels_and_torch_give_the_same(
    parent: Parent, calls: dict[str, int], choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_elastic.megatron import modules

    start()
    model = build(parent)
    randomise(model, std=0.2)
    member = parent.uniform(hidden=20, mamba_heads=4 if parent is ODD else 8, mamba_head_dim=2 if parent is ODD else 3)
    chosen = {"whole": None, "sliced": member, "gated": Gates.of(parent, member), "packed": member}[choice]
    documents = Documents(((1, 4, 7), (5, 7))) if choice == "packed" else None
    tokens = torch.randint(0, parent.vocab, (2, 7), generator=torch.Generator().manual_seed(0))
    want = logits_and_grads(model, tokens, chosen, lambda z: z.square().mean(), documents)
    seen: Counter[str] = Counter()

    def counted(name: str, call: Any) -> Any:
        return lambda *args, **kwargs: seen.update([name]) or call(*args, **kwargs)

    kernels = Kernels(
        counted("fused", reference), counted("scan", reference_scan), counted("conv", reference_conv), 128
    )
    monkeypatch.setattr(modules, "kernels_for", lambda x, chunk_size: kernels)
    got = logits_and_grads(model, tokens, chosen, lambda z: z.square().mean(), documents)
    assert seen == calls
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)
    for name, grad in want[1].items():
        torch.testing.assert_close(got[1][name], grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
