# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, plain and gated, over a given number of channels.

A nested width keeps a prefix of d of D channels. The norm of the submodel averages over d, so on masked input (D
channels with zeros behind the first d) the mean must be taken over d as well, and over the sum of the gates when the
mask is soft: that number is ``count``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nemo_elastic.nn.dtype import work_dtype
from nemo_elastic.nn.tiles import Scratch, tiles

Count = int | float | torch.Tensor | None


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float, count: Count = None) -> torch.Tensor:
    """RMSNorm over the last dimension: ``x / sqrt(sum(x**2) / count + eps) * weight``.

    Args:
        x: Input ``[..., d]``.
        weight: Scale ``[d]``, or None for 1.
        eps: Added to the mean square.
        count: Number of channels that the mean runs over: None for d, a positive number for a masked prefix, or a
            0-dim tensor, differentiable, for the sum of soft gates.

    Returns:
        ``[..., d]`` in the dtype of ``x``; computed in float32 at least.

    Raises:
        ValueError: ``count`` is a number that is not positive, or a tensor with dimensions.
    """
    size = x.shape[-1]
    dtype = work_dtype(x, weight)
    weight = None if weight is None else weight.to(dtype)
    if isinstance(count, torch.Tensor):
        if count.dim() != 0:
            raise ValueError(f"count is a 0-dim tensor, not one of shape {tuple(count.shape)}")
        y = _normalise(x.to(dtype), eps, count)
        return (y if weight is None else y * weight).to(x.dtype)
    if weight is not None and count in (None, size) and x.device.type == "cpu":
        return _RMSNorm.apply(x.to(dtype), weight, eps).to(x.dtype)
    y = _stock_norm(x.to(dtype), weight, eps, size if count is None else count)
    return y.to(x.dtype)


def gated_rms_norm(
    y: torch.Tensor, z: torch.Tensor, weight: torch.Tensor | None, groups: int, eps: float, count: Count = None
) -> torch.Tensor:
    """Mamba-2's gated norm, gate first: RMSNorm of ``y * silu(z)`` over the channels of each group, times ``weight``.

    This is ``norm_before_gate=False`` with ``group_size = channels / groups`` of mamba_ssm's RMSNormGated.

    Args:
        y: Output of the scan ``[..., c]``, group after group.
        z: Gate ``[..., c]``.
        weight: Scale ``[c]``, or None for 1.
        groups: Number of groups; divides c.
        eps: Added to the mean square.
        count: Number of channels of ONE group that the mean runs over: None for ``c / groups``, a positive number, a
            0-dim tensor, or a tensor ``[groups]`` with a number for each group.

    Returns:
        ``[..., c]`` in the dtype of ``y``; computed in float32 at least.

    Raises:
        ValueError: ``groups`` does not divide c, or ``count`` is not positive or has another shape.
    """
    channels = y.shape[-1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels are not groups={groups} equal groups")
    dtype = work_dtype(y, z, weight)
    weight = None if weight is None else weight.to(dtype)
    if isinstance(count, torch.Tensor):
        if count.dim() > 1 or (count.dim() == 1 and count.shape[0] != groups):
            raise ValueError(f"count is a 0-dim tensor or one of [{groups}] (groups), not {tuple(count.shape)}")
        u = (y.to(dtype) * F.silu(z.to(dtype))).unflatten(-1, (groups, channels // groups))
        out = _normalise(u, eps, count.unsqueeze(-1)).flatten(-2)
        return (out if weight is None else out * weight).to(y.dtype)
    size = channels // groups if count is None else count
    if not size > 0:
        raise ValueError(f"count must be positive, not {count}")
    y3, z3 = (t.to(dtype) if t.dim() == 3 else t.to(dtype).reshape(1, -1, channels) for t in (y, z))
    return _GatedNorm.apply(y3, z3, weight, groups, eps, size).view(y.shape).to(y.dtype)


def _normalise(x: torch.Tensor, eps: float, count: torch.Tensor) -> torch.Tensor:
    """``x / sqrt(sum(x**2) / count + eps)``; ``count`` broadcasts against the leading dimensions of ``x``."""
    # the sum of gates is never 0: every choice of widths keeps at least one channel
    mean = x.square().sum(-1, keepdim=True) / count.to(x.dtype)
    return x * (mean + eps).rsqrt()


def _stock_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float, count: float) -> torch.Tensor:
    """The same with a fixed count, through the fused F.rms_norm.

    A stock norm averages over all D channels: ``sum / count + eps = D / count * (sum / D + eps * count / D)``, so the
    epsilon shrinks and the output grows by sqrt(count / D).
    """
    size = x.shape[-1]
    if not count > 0:
        raise ValueError(f"count must be positive, not {count}")
    if count == size:
        return F.rms_norm(x, (size,), weight, eps)
    ratio = count / size
    scale = math.sqrt(ratio)
    if weight is None:
        return F.rms_norm(x, (size,), None, eps * ratio) * scale
    return F.rms_norm(x, (size,), weight * scale, eps * ratio)


class _RMSNorm(torch.autograd.Function):
    """F.rms_norm with a weight, which on a CPU is a chain of operations that keeps twice what this does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        inverse = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        size = x.shape[-1]
        x_td, dy_td, inverse_t = x.reshape(-1, size), dy.reshape(-1, size), inverse.reshape(-1)
        product_td = dy_td * x_td
        dweight = torch.mv(product_td.t(), inverse_t)
        share_t = torch.mv(product_td, weight) * inverse_t.pow(3) / size
        dx_td = torch.mul(dy_td, weight, out=product_td).mul_(inverse_t[:, None])
        return dx_td.addcmul_(x_td, share_t[:, None], value=-1).view(x.shape), dweight, None


def gated_forward(
    y_blc: torch.Tensor,
    z_blc: torch.Tensor,
    weight_c: torch.Tensor | None,
    groups: int,
    eps: float,
    count: float,
    out_blc: torch.Tensor,
) -> torch.Tensor:
    """Writes ``out_blc`` and returns the inverse norms [b, l, groups, 1], without autograd; one floating dtype."""
    b, length, _ = y_blc.shape
    inverse = y_blc.new_empty(b, length, groups, 1)
    room = Scratch(y_blc)
    for at in tiles(y_blc.shape, y_blc.device):
        u = torch.ops.aten.silu.out(z_blc[at], out=out_blc[at]).mul_(y_blc[at])
        square = torch.mul(u, u, out=room("square", *u.shape)).unflatten(-1, (groups, -1))
        torch.sum(square, -1, keepdim=True, out=inverse[at]).div_(count).add_(eps).rsqrt_()
        u.unflatten(-1, (groups, -1)).mul_(inverse[at])
        if weight_c is not None:
            u.mul_(weight_c)
    return inverse


def gated_backward(
    dout_blc: torch.Tensor,
    y_blc: torch.Tensor,
    z_blc: torch.Tensor,
    weight_c: torch.Tensor | None,
    inverse: torch.Tensor,
    count: float,
    dy_blc: torch.Tensor,
    dz_blc: torch.Tensor,
) -> torch.Tensor | None:
    """Writes the gradients of y and z and returns the weight's."""
    groups = (inverse.shape[2], -1)
    dweight = None if weight_c is None else torch.zeros_like(weight_c)
    room = Scratch(y_blc)
    for at in tiles(y_blc.shape, y_blc.device):
        y, z, dout, scale = y_blc[at], z_blc[at], dout_blc[at], inverse[at]
        gate = torch.ops.aten.silu.out(z, out=room("gate", *y.shape))
        unit = torch.mul(gate, y, out=room("unit", *y.shape))
        unit.unflatten(-1, groups).mul_(scale)
        du = torch.mul(dout, unit, out=dz_blc[at])
        if weight_c is not None and dweight is not None:
            dweight += du.sum((0, 1))
            du.mul_(weight_c)
        along = du.unflatten(-1, groups).sum(-1, keepdim=True).div_(count)
        if weight_c is not None:
            torch.mul(dout, weight_c, out=du)
        else:
            du.copy_(dout)
        du.unflatten(-1, groups).addcmul_(unit.unflatten(-1, groups), along, value=-1).mul_(scale)
        torch.mul(du, gate, out=dy_blc[at])
        torch.ops.aten.silu_backward.grad_input(du.mul_(y), z, grad_input=du)
    return dweight


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y_blc: torch.Tensor,
        z_blc: torch.Tensor,
        weight_c: torch.Tensor | None,
        groups: int,
        eps: float,
        count: float,
    ) -> torch.Tensor:
        out_blc = torch.empty_like(y_blc)
        inverse = gated_forward(y_blc, z_blc, weight_c, groups, eps, count, out_blc)
        ctx.save_for_backward(y_blc, z_blc, weight_c, inverse)
        ctx.count = count
        return out_blc

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, z, weight, inverse = ctx.saved_tensors
        dy, dz = torch.empty_like(y), torch.empty_like(z)
        dweight = gated_backward(dout, y, z, weight, inverse, ctx.count, dy, dz)
        return dy, dz, dweight, None, None, None
