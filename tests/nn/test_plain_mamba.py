# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The inside of a Mamba layer by hand and by autograd: one function, to the last digits of float64."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.nn.mamba import mamba_inside
from tests.support.plain_mamba import plain_inside


@pytest.mark.parametrize(("groups", "heads", "dim", "state"), [(4, 16, 16, 16), (1, 3, 4, 8), (2, 2, 8, 4)])
def test_both_give_the_same_outputs_and_gradients(groups: int, heads: int, dim: int, state: int) -> None:
    g = torch.Generator().manual_seed(groups)
    inner, maps = heads * dim, 2 * groups * state
    sizes = [(2, 64, 2 * inner + maps + heads), (inner + maps, 1, 4), (inner + maps,), (heads,), (heads,), (heads,),
             (inner,)]  # fmt: skip
    tensors = [torch.randn(size, generator=g, dtype=torch.float64) for size in sizes]
    tensors[3] = -tensors[3].exp()
    for tensor in tensors:
        tensor.requires_grad_()
    found = []
    for inside in (mamba_inside, plain_inside):
        out = inside(*tensors, groups, state, 1e-5)
        found.append((out, *torch.autograd.grad(out.square().sum(), tensors)))
    for own, plain in zip(*found, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-10)
