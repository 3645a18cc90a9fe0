# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Dtypes, norms and attention: each is its formula with its gradient, and a masked width is the sliced one."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.nn.functional import causal_attention, gated_rms_norm, rms_norm, work_dtype


def test_what_is_computed_in() -> None:
    """Single precision up to that of the operands, double as soon as one of them is."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int64):
        assert work_dtype(torch.zeros(1, dtype=dtype), None) == torch.float32
    half, double = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float64)
    assert work_dtype(half, None, double) == work_dtype(double, half) == torch.float64
    assert work_dtype() == work_dtype(None) == torch.float32


EPS = 1e-5


def naive(x, weight, eps, count):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / count + eps) * weight


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("count", [None, 12, 7, 7.5, torch.tensor(6.25, dtype=torch.float64)])
def test_rms_norm_is_the_formula_with_its_gradient(count):
    x, weight = rand(3, 5, 12).requires_grad_(), rand(12, seed=1).requires_grad_()
    expected = naive(x, weight, EPS, 12 if count is None else count)
    actual = rms_norm(x, weight, EPS, count)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    g = rand(3, 5, 12, seed=2)
    for a, e in zip(torch.autograd.grad(actual, (x, weight), g), torch.autograd.grad(expected, (x, weight), g)):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_rms_norm_without_count_is_the_stock_norm():
    x, weight = rand(4, 64, dtype=torch.float32), rand(64, seed=1, dtype=torch.float32)
    assert torch.equal(rms_norm(x, weight, EPS), F.rms_norm(x, (64,), weight, EPS))
    assert torch.equal(rms_norm(x, weight, EPS, 64), F.rms_norm(x, (64,), weight, EPS))


def test_rms_norm_differentiates_its_count():
    x, weight, count = (
        rand(2, 6).requires_grad_(),
        rand(6, seed=1).requires_grad_(),
        torch.tensor(4.5, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(lambda x, w, c: rms_norm(x, w, EPS, c), (x, weight, count.requires_grad_()))


@settings(max_examples=30)
@given(full=st.integers(2, 96), data=st.data())
def test_masked_prefix_with_count_is_the_sliced_norm(full, data):
    """Also what a stock norm does after the correction of its epsilon and output (method: sqrt(d / D))."""
    d = data.draw(st.integers(1, full))
    x, weight = rand(4, full, seed=full), rand(full, seed=1)
    mask = (torch.arange(full) < d).to(x.dtype)
    sliced = rms_norm(x[:, :d], weight[:d], EPS)
    for count in (d, torch.tensor(float(d), dtype=x.dtype)):
        masked = rms_norm(x * mask, weight, EPS, count)
        torch.testing.assert_close(masked[:, :d], sliced, rtol=1e-12, atol=1e-12)
        assert masked[:, d:].abs().max() == 0 if d < full else True
    stock = F.rms_norm(x * mask, (full,), weight, EPS * d / full) * (d / full) ** 0.5
    torch.testing.assert_close(stock[:, :d], sliced, rtol=1e-12, atol=1e-12)


def naive_gated(y, z, weight, groups, eps, counts):
    u = y * z * torch.sigmoid(z)
    size = u.shape[-1] // groups
    parts = [naive(u[..., i * size : (i + 1) * size], 1.0, eps, counts[i]) for i in range(groups)]
    return torch.cat(parts, -1) * weight


@pytest.mark.parametrize(
    "count", [None, 4, torch.tensor(3.5, dtype=torch.float64), torch.tensor([6.0, 2.5, 1.0], dtype=torch.float64)]
)
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


@pytest.mark.parametrize("shape", [(), (3,)])
def test_gated_norm_differentiates_its_count(shape):
    count = (torch.rand(shape, dtype=torch.float64) + 2).requires_grad_()
    y, z = rand(2, 12).requires_grad_(), rand(2, 12, seed=1)
    assert torch.autograd.gradcheck(lambda y, c: gated_rms_norm(y, z, None, 3, EPS, c), (y, count))


@settings(max_examples=30)
@given(groups=st.integers(1, 4), full=st.integers(1, 12), data=st.data())
def test_gated_norm_of_a_prefix_per_group_is_the_sliced_norm(groups, full, data):
    kept = data.draw(st.integers(1, full))
    y, z = (rand(5, groups * full, seed=i) for i in range(2))
    weight = rand(groups * full, seed=2)
    mask = (torch.arange(full) < kept).repeat(groups)
    sliced = gated_rms_norm(y[:, mask], z[:, mask], weight[mask], groups, EPS)
    masked = gated_rms_norm(y * mask, z * mask, weight, groups, EPS, kept)
    torch.testing.assert_close(masked[:, mask], sliced, rtol=1e-12, atol=1e-12)


def test_norms_of_half_precision_are_computed_in_float32():
    x, weight = rand(4, 256).to(torch.bfloat16), rand(256, seed=1).to(torch.bfloat16)
    y = rms_norm(x, weight, EPS)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, naive(x.float(), weight.float(), EPS, 256).to(torch.bfloat16), rtol=0.01, atol=1e-6)
    gated = gated_rms_norm(x, x, weight, 4, EPS, torch.tensor(64.0))
    assert gated.dtype == torch.bfloat16
    expected = naive_gated(x.float(), x.float(), weight.float(), 4, EPS, [64] * 4)
    torch.testing.assert_close(gated, expected.to(torch.bfloat16), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rms_norm(x, None, EPS, 0), "count must be positive, not 0"),
        (lambda x: rms_norm(x, None, EPS, torch.ones(2)), "0-dim"),
        (lambda x: gated_rms_norm(x, x, None, 5, EPS), "12 channels are not groups=5"),
        (lambda x: gated_rms_norm(x, x, None, 3, EPS, torch.ones(2)), r"\[3\]"),
        (lambda x: gated_rms_norm(x, x, None, 3, EPS, -1), "count must be positive, not -1"),
    ],
)
def test_bad_input_of_norms_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 12))


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


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("past", [0, 5])
def test_attention_is_the_formula_with_its_gradient(heads, groups, past):
    qkv = tuple(t.requires_grad_() for t in queries(heads, groups, keys=7 + past))
    expected, actual = naive_attention(*qkv, past), causal_attention(*qkv, past_len=past)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    g = torch.rand_like(actual)
    for a, e in zip(torch.autograd.grad(actual, qkv, g), torch.autograd.grad(expected, qkv, g)):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11)


@settings(max_examples=30)
@given(length=st.integers(1, 10), data=st.data())
def test_prefill_and_decode_are_the_whole(length, data):
    q, k, v = queries(length=length)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, length - 1)))), length] if length > 1 else [0, 1]
    parts = [causal_attention(q[:, :, i:j], k[:, :, :j], v[:, :, :j], past_len=i) for i, j in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, 2), causal_attention(q, k, v), rtol=1e-10, atol=1e-12)


def test_a_prefix_of_the_heads_of_every_group_is_the_slice():
    q, k, v = queries(heads=6, groups=2)
    kept = torch.tensor([0, 1, 3, 4])  # two of three in each group
    sliced = causal_attention(q[:, kept], k, v)
    torch.testing.assert_close(sliced, causal_attention(q, k, v)[:, kept], rtol=1e-10, atol=1e-12)


def test_attention_in_half_precision():
    q, k, v = queries(dtype=torch.bfloat16)
    y = causal_attention(q, k, v)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), naive_attention(q.float(), k.float(), v.float(), 0), rtol=0.02, atol=0.02)


def test_bad_input_of_attention_is_refused():
    q, k, v = queries()
    with pytest.raises(ValueError, match="5 query heads are not shared equally by 2"):
        causal_attention(q[:, :5], k, v)
    with pytest.raises(ValueError, match="7 keys for past_len=3 and 7 queries: 10 are needed"):
        causal_attention(q, k, v, past_len=3)
