# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.nn.attention."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.nn import causal_attention


def make(heads=6, groups=2, length=7, keys=None, b=2, d=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    keys = keys or length
    shapes = ((b, heads, length, d), (b, groups, keys, d), (b, groups, keys, d))
    return tuple(torch.randn(*s, generator=g, dtype=dtype) for s in shapes)


def naive(q, k, v, past):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    i, j = torch.arange(q.shape[2])[:, None] + past, torch.arange(k.shape[2])
    return scores.masked_fill(j > i, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("past", [0, 5])
def test_is_the_formula_with_its_gradient(heads, groups, past):
    qkv = tuple(t.requires_grad_() for t in make(heads, groups, keys=7 + past))
    expected, actual = naive(*qkv, past), causal_attention(*qkv, past_len=past)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    g = torch.rand_like(actual)
    for a, e in zip(torch.autograd.grad(actual, qkv, g), torch.autograd.grad(expected, qkv, g)):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11)


@settings(max_examples=30)
@given(length=st.integers(1, 10), data=st.data())
def test_prefill_and_decode_are_the_whole(length, data):
    q, k, v = make(length=length)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, length - 1)))), length] if length > 1 else [0, 1]
    parts = [causal_attention(q[:, :, i:j], k[:, :, :j], v[:, :, :j], past_len=i) for i, j in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, 2), causal_attention(q, k, v), rtol=1e-10, atol=1e-12)


def test_a_prefix_of_the_heads_of_every_group_is_the_slice():
    q, k, v = make(heads=6, groups=2)
    kept = torch.tensor([0, 1, 3, 4])  # two of three in each group
    sliced = causal_attention(q[:, kept], k, v)
    torch.testing.assert_close(sliced, causal_attention(q, k, v)[:, kept], rtol=1e-10, atol=1e-12)


def test_half_precision():
    q, k, v = make(dtype=torch.bfloat16)
    y = causal_attention(q, k, v)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), naive(q.float(), k.float(), v.float(), 0), rtol=0.02, atol=0.02)


def test_bad_input_is_told():
    q, k, v = make()
    with pytest.raises(ValueError, match="5 query heads are not shared equally by 2"):
        causal_attention(q[:, :5], k, v)
    with pytest.raises(ValueError, match="7 keys for past_len=3 and 7 queries: 10 are needed"):
        causal_attention(q, k, v, past_len=3)
