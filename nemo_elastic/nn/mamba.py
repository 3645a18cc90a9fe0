# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The inside of a Mamba-2 layer as one function: convolution, scan and gated norm between the two projections.

What mamba_ssm's `mamba_split_conv1d_scan_combined` is on CUDA. As one function it keeps the input projection's output
and the scan's, computes the convolution again in its backward pass, and writes the gradient of [z | x | B | C | dt]
where it belongs instead of joining five pieces.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.conv import conv_backward, conv_forward
from nemo_elastic.nn.dtype import work_dtype
from nemo_elastic.nn.norm import gated_backward, gated_forward
from nemo_elastic.nn.scan import scan_backward, scan_forward
from nemo_elastic.nn.ssd import chunk_for


def mamba_inside(
    zxbcdt_blo: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    a_h: torch.Tensor,
    d_h: torch.Tensor,
    dt_bias_h: torch.Tensor,
    norm_weight: torch.Tensor,
    groups: int,
    state: int,
    eps: float,
) -> torch.Tensor:
    """``gated_rms_norm(ssd_chunked(causal_conv1d(xBC), dt), z)``, differentiable (once) in every tensor.

    Args:
        zxbcdt_blo: output of the input projection, [z | x | B | C | dt] of heads * p, heads * p, groups * n,
            groups * n and heads channels.
        conv_weight, conv_bias: of x, B and C, as in `causal_conv1d`.
        a_h: decay rates, negative; d_h: skip; dt_bias_h: all [heads].
        norm_weight: [heads * p].
        groups, state: g and n; eps: of the norm.

    Returns:
        ``[b, l, heads * p]`` in the dtype of ``zxbcdt_blo``; computed in float32 at least.
    """
    dtype = work_dtype(zxbcdt_blo, conv_weight, a_h)
    weight_ck = conv_weight.squeeze(1) if conv_weight.dim() == 3 else conv_weight
    tensors = (zxbcdt_blo, weight_ck.t().contiguous(), conv_bias, a_h, d_h, dt_bias_h, norm_weight)
    out = _Inside.apply(*(None if t is None else t.to(dtype) for t in tensors), groups, state, eps)
    return out.to(zxbcdt_blo.dtype)


class _Views:
    """The parts of the projection's output, or of its gradient."""

    def __init__(self, zxbcdt: torch.Tensor, heads: int, groups: int, state: int) -> None:
        inner = (zxbcdt.shape[-1] - 2 * groups * state - heads) // 2
        self.widths = MambaWidths(heads, inner // heads, groups, state)
        self.by_head = (groups, heads // groups, inner // heads)
        self.z, self.xbc, self.dt = self.widths.split(zxbcdt)
        self.dt_blgr = self.dt.unflatten(-1, (groups, heads // groups))

    def scanned(self, xbc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x, B and C as the scan takes them."""
        x, b, c = self.widths.scanned(xbc)
        return x.unflatten(-2, self.by_head[:2]), b, c


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        zxbcdt: torch.Tensor,
        weight_kc: torch.Tensor,
        bias_c: torch.Tensor | None,
        a_h: torch.Tensor,
        d_h: torch.Tensor,
        dt_bias_h: torch.Tensor,
        norm_c: torch.Tensor,
        groups: int,
        state: int,
        eps: float,
    ) -> torch.Tensor:
        heads = a_h.shape[0]
        views = _Views(zxbcdt, heads, groups, state)
        xbc = conv_forward(views.xbc, weight_kc, bias_c, torch.empty_like(views.xbc))
        x, b, c = views.scanned(xbc)
        dt = F.softplus(views.dt + dt_bias_h).view(views.dt_blgr.shape)
        a_gr, d_gr = (t.view(groups, -1) for t in (a_h, d_h))
        y = torch.empty_like(views.z)
        q = chunk_for(state, zxbcdt.shape[1])
        _, starts = scan_forward(x, dt, a_gr, b, c, d_gr, None, q, y.unflatten(-1, views.by_head))
        out = torch.empty_like(y)
        inverse = gated_forward(y, views.z, norm_c, groups, eps, y.shape[-1] // groups, out)
        ctx.save_for_backward(zxbcdt, weight_kc, bias_c, a_h, d_h, dt_bias_h, norm_c, y, inverse, *starts)
        ctx.args = (groups, state, q)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        zxbcdt, weight_kc, bias_c, a_h, d_h, dt_bias_h, norm_c, y, inverse, *starts = ctx.saved_tensors
        groups, state, q = ctx.args
        heads = a_h.shape[0]
        d_zxbcdt = torch.empty_like(zxbcdt)
        views, grads = (_Views(t, heads, groups, state) for t in (zxbcdt, d_zxbcdt))
        dy = torch.empty_like(y)
        dnorm = gated_backward(dout, y, views.z, norm_c, inverse, y.shape[-1] // groups, dy, grads.z)

        xbc = conv_forward(views.xbc, weight_kc, bias_c, torch.empty_like(views.xbc))
        (x, b, c), (dx, db, dc) = views.scanned(xbc), views.scanned(grads.xbc)
        before = views.dt + dt_bias_h
        dt = F.softplus(before).view(views.dt_blgr.shape)
        a_gr, d_gr = (t.view(groups, -1) for t in (a_h, d_h))
        y, dy = y.unflatten(-1, views.by_head), dy.unflatten(-1, views.by_head)
        into = (dx, torch.empty_like(dt), db, dc)
        da, dd, _ = scan_backward(dy, None, x, dt, a_gr, b, c, d_gr, starts, q, y, into)
        torch.ops.aten.softplus_backward.grad_input(into[1].flatten(2), before, 1.0, 20.0, grad_input=grads.dt)
        dweight, dbias = conv_backward(grads.xbc, views.xbc, weight_kc, bias_c, grads.xbc)
        assert dd is not None
        d_dt_bias = grads.dt.sum((0, 1))
        return d_zxbcdt, dweight, dbias, da.flatten(), dd.flatten(), d_dt_bias, dnorm, None, None, None
