# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.nn.conv."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.nn import causal_conv1d


def make(b=2, length=9, c=5, k=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((b, length, c), (c, k), (c,), (b, c, k - 1))
    )


def naive(x, weight, bias, state=None):
    k = weight.shape[1]
    past = x.new_zeros(x.shape[0], k - 1, x.shape[2]) if state is None else state.transpose(1, 2)
    padded = torch.cat([past, x], 1)
    rows = [(padded[:, i : i + k] * weight.t()).sum(1) + bias for i in range(x.shape[1])]
    return F.silu(torch.stack(rows, 1))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_is_the_formula_with_its_gradient(k, with_state):
    x, weight, bias, state = (t.requires_grad_() for t in make(k=k))
    wanted = (x, weight, bias, state) if with_state else (x, weight, bias)
    expected, actual = (f(x, weight, bias, state if with_state else None) for f in (naive, causal_conv1d))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    g = torch.rand_like(actual)
    actual, expected = (torch.autograd.grad(t, wanted, g) for t in (actual, expected))
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_both_weight_shapes_and_no_bias():
    x, weight, bias, _ = make()
    assert torch.equal(causal_conv1d(x, weight.unsqueeze(1), bias), causal_conv1d(x, weight, bias))
    torch.testing.assert_close(causal_conv1d(x, weight, None), naive(x, weight, torch.zeros_like(bias)))


@settings(max_examples=30)
@given(length=st.integers(1, 12), k=st.integers(1, 5), data=st.data())
def test_pieces_with_state_are_the_whole(length, k, data):
    x, weight, bias, _ = make(length=length, k=k)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, length - 1)))), length] if length > 1 else [0, 1]
    state, parts = None, []
    for i, j in itertools.pairwise(cuts):
        y, state = causal_conv1d(x[:, i:j], weight, bias, state, return_state=True)
        assert state.shape == (2, 5, k - 1)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), causal_conv1d(x, weight, bias), rtol=1e-12, atol=1e-12)


def test_channels_are_independent():
    """A sliced convolution is the slice of the convolution: nested widths need nothing more."""
    x, weight, bias, _ = make()
    kept = torch.tensor([0, 1, 3])
    sliced = causal_conv1d(x[..., kept], weight[kept], bias[kept])
    torch.testing.assert_close(sliced, causal_conv1d(x, weight, bias)[..., kept], rtol=1e-12, atol=1e-12)


def test_dtype_of_the_input_is_kept():
    x, weight, bias, _ = make()
    assert causal_conv1d(x.bfloat16(), weight.float(), bias.float()).dtype == torch.bfloat16


def test_bad_input_is_told():
    x, weight, bias, state = make()
    with pytest.raises(ValueError, match=r"weight \(4, 4\) is neither"):
        causal_conv1d(x, weight[:4], bias[:4])
    with pytest.raises(ValueError, match=r"state \(2, 5, 2\) is not"):
        causal_conv1d(x, weight, bias, state[..., :2])
