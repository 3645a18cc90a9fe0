# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.nn.mamba: one function equals its three steps, whatever the tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nemo_elastic.nn import causal_conv1d, gated_rms_norm, ssd_chunked, tiles
from nemo_elastic.nn.mamba import mamba_inside
from nemo_elastic.nn.ssd import chunk_for

HEADS, DIM, GROUPS, STATE, EPS = 4, 5, 2, 6, 1e-5
INNER, BC = HEADS * DIM, GROUPS * STATE


def steps(*given: Any) -> torch.Tensor:
    zxbcdt, conv_weight, conv_bias, a, d, dt_bias, norm = given
    z, xbc, dt = zxbcdt.split([INNER, INNER + 2 * BC, HEADS], -1)
    mixed: Any = causal_conv1d(xbc, conv_weight, conv_bias)
    x, b, c = mixed.split([INNER, BC, BC], -1)
    b, c = (t.unflatten(-1, (GROUPS, STATE)) for t in (b, c))
    y: Any = ssd_chunked(x.unflatten(-1, (HEADS, DIM)), dt, a, b, c, d, dt_bias)
    return gated_rms_norm(y.flatten(-2), z, norm, GROUPS, EPS)


def tensors(length: int, sequence_first: bool, dtype: torch.dtype = torch.float64) -> list[Any]:
    gen = torch.Generator().manual_seed(length)
    width, channels = 2 * INNER + 2 * BC + HEADS, INNER + 2 * BC
    shapes = [(3, length, width), (channels, 1, 4), (channels,), (HEADS,), (HEADS,), (HEADS,), (INNER,)]
    found = [torch.randn(shape, generator=gen, dtype=dtype) for shape in shapes]
    found[3] = -found[3].exp()
    if sequence_first:  # megatron-core's order of memory
        found[0] = found[0].transpose(0, 1).contiguous().transpose(0, 1)
    return [t.requires_grad_() for t in found]


@pytest.mark.parametrize("length", [1, 2, 37, 150])
@pytest.mark.parametrize("tile", [1, 3000, tiles.CPU_TILE])
@pytest.mark.parametrize("sequence_first", [False, True])
def test_is_its_steps_with_their_gradients(length, tile, sequence_first, monkeypatch):
    given = tensors(length, sequence_first)
    expected = steps(*given)
    g = torch.rand_like(expected)
    wanted = torch.autograd.grad(expected, given, g)
    monkeypatch.setattr(tiles, "CPU_TILE", tile)
    actual = mamba_inside(*given, groups=GROUPS, state=STATE, eps=EPS)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for a, e in zip(torch.autograd.grad(actual, given, g), wanted, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-11)


def test_half_precision_is_computed_in_float32():
    given = [t.detach() for t in tensors(70, False, torch.float32)]
    half = [given[0].bfloat16(), *given[1:]]
    out = mamba_inside(*half, groups=GROUPS, state=STATE, eps=EPS)
    assert out.dtype == torch.bfloat16
    expected = steps(half[0].float(), *given[1:])
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.01)


def test_what_is_kept_for_backward_does_not_grow_with_heads_times_chunks():
    """Of tensors that are as long as the sequence: the input, the output, the scan's output, and the inverse norms."""
    kept = []
    given = tensors(150, False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        mamba_inside(*given, groups=GROUPS, state=STATE, eps=EPS)
    assert sum(t.numel() for t in kept) < given[0].numel() * 2


@pytest.mark.parametrize(("state", "length", "chunk"), [(16, 999, 32), (64, 999, 64), (128, 999, 64), (128, 9, 9)])
def test_chunks(state, length, chunk):
    assert chunk_for(state, length) == chunk
