# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What stands for causal_conv1d's CUDA computes the convolution, by either interface, and refuses what that does."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.ssd import causal_conv1d

from .conv_cuda import Misaligned, causal_conv1d_bwd, causal_conv1d_fwd


def tensors(channels: int = 16) -> tuple[torch.Tensor, ...]:
    """x and dout [b, c, l] in rows of channels, weight, bias."""
    torch.manual_seed(0)
    x, dout = torch.randn(2, 2, 5, channels).transpose(2, 3)
    return x, dout, torch.randn(channels, 4), torch.randn(channels)


@pytest.mark.parametrize("given", [False, True], ids=["allocates", "writes"])
@pytest.mark.parametrize("ends", [(5,), (1, 3, 5)], ids=["one", "three documents"])
def test_it_is_the_convolution(given: bool, ends: tuple[int, ...]) -> None:
    x, dout, weight, bias = tensors()
    index = Documents((ends, ends)).index(x.device) if len(ends) > 1 else None
    own = [t.detach().requires_grad_() for t in (x, weight, bias)]
    wanted = causal_conv1d(own[0].transpose(1, 2), own[1][:, None], own[2], index_bl=index)
    assert isinstance(wanted, torch.Tensor)
    grads = torch.autograd.grad(wanted, own, dout.transpose(1, 2))
    if given:
        out, got = torch.empty_like(x), [torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)]
        causal_conv1d_fwd(x, weight, bias, index, None, out, None, True)
        causal_conv1d_bwd(x, weight, bias, dout, index, None, None, *got, None, True)
    else:
        out = causal_conv1d_fwd(x, weight, bias, index, None, None, True)
        *got, _ = causal_conv1d_bwd(x, weight, bias, dout, index, None, None, None, False, True)
    torch.testing.assert_close(out, wanted.transpose(1, 2))
    for one, grad in zip(got, grads):
        torch.testing.assert_close(one, grad, rtol=1e-5, atol=1e-5)


def part(channels: int, offset: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[b, c, l] that lies in wider rows."""
    return torch.zeros(2, 5, width, dtype=dtype)[..., offset : offset + channels].transpose(1, 2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (part(12, 0, 16), "divisible by 8"),
        (part(16, 8, 28), "to be multiples of 8"),
        (part(16, 4, 32, torch.bfloat16), "x: rows 32 apart begin off"),
    ],
)
def test_a_forward_refuses(x: torch.Tensor, message: str) -> None:
    weight, bias = torch.zeros(x.shape[1], 4), torch.zeros(x.shape[1])
    with pytest.raises(RuntimeError, match=message):
        causal_conv1d_fwd(x, weight, bias, None, None, None, True)


def test_a_backward_refuses_a_gradient_in_odd_rows() -> None:
    x, dout, weight, bias = tensors()
    with pytest.raises(Misaligned, match="dx: rows 26 apart"):
        causal_conv1d_bwd(x, weight, bias, dout, None, None, None, part(16, 8, 26), False, True)
    with pytest.raises(RuntimeError, match=r"dx.stride\(1\) == 1"):
        causal_conv1d_bwd(x, weight, bias, dout, None, None, None, torch.zeros(2, 16, 5), False, True)
