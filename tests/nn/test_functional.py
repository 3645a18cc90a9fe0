# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Dtypes, norms and attention: each is its formula with its gradient, and a masked width is the sliced one."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.nn.functional import causal_attention, gated_rms_norm, rms_norm

EPS = 1e-5


def naive(x, weight, eps, count):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / count + eps) * weight


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_gated(y, z, weight, groups, eps, counts):
    u = y * z * torch.sigmoid(z)
    size = u.shape[-1] // groups
    parts = [naive(u[..., i * size : (i + 1) * size], 1.0, eps, counts[i]) for i in range(groups)]
    return torch.cat(parts, -1) * weight


@pytest.mark.parametrize("count", [None, 4, torch.tensor([6.0, 2.5, 1.0], dtype=torch.float64)])
def test_gated_norm_is_the_formula_with_its_gradient(count):
    y, z, weight = rand(2, 3, 18).requires_grad_(), rand(2, 3, 18, seed=1).requires_grad_(), rand(18, seed=2)
    weight.requires_grad_()
    counts = torch.full((3,), 6.0, dtype=y.dtype) if count is None else torch.as_tensor(count).expand(3)
    expected = naive_gated(y, z, weight, 3, EPS, counts)
    actual = gated_rms_norm(y, z, weight, 3, EPS, count)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    g = rand(2, 3, 18, seed=3)
    wanted = (y, z, weight)
    for a, e in zip(torch.autograd.grad(actual, wanted, g), torch.autograd.grad(expected, wanted, g)):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_norms_of_half_precision_are_computed_in_float32():
    x, weight = rand(4, 256).to(torch.bfloat16), rand(256, seed=1).to(torch.bfloat16)
    y = rms_norm(x, weight, EPS)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, naive(x.float(), weight.float(), EPS, 256).to(torch.bfloat16), rtol=0.01, atol=1e-6)
    gated = gated_rms_norm(x, x, weight, 4, EPS, torch.tensor(64.0))
    assert gated.dtype == torch.bfloat16
    expected = naive_gated(x.float(), x.float(), weight.float(), 4, EPS, [64] * 4)
    torch.testing.assert_close(gated, expected.to(torch.bfloat16), rtol=0.01, atol=1e-6)


def queries(heads=6, groups=2, length=7, keys=None, b=2, d=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    keys = keys or length
    shapes = ((b, heads, length, d), (b, groups, keys, d), (b, groups, keys, d))
    return tuple(torch.randn(*s, generator=g, dtype=dtype) for s in shapes)


def naive_attention(q, k, v, past):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    i, j = torch.arange(q.shape[2])[:, None] + past, torch.arange(k.shape[2])
    return scores.masked_fill(j > i, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("past", [0, 5])
def test_attention_is_the_formula_with_its_gradient(heads, groups, past):
    qkv = tuple(t.requires_grad_() for t in queries(heads, groups, keys=7 + past))
    expected, actual = naive_attention(*qkv, past), causal_attention(*qkv, past_len=past)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    g = torch.rand_like(actual)
    for a, e in zip(torch.autograd.grad(actual, qkv, g), torch.autograd.grad(expected, qkv, g)):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11)
