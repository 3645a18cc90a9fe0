# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, plain and gated, over a given number of channels.

A nested width keeps a prefix of d of D channels. The norm of the submodel averages over d, so on masked input (D
channels with zeros behind the first d) the mean must be taken over d as well, and over the sum of the gates when the
mask is soft: that number is ``count``.
"""

import math

import torch
import torch.nn.functional as F

from nemo_elastic.nn.dtype import work_dtype

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
    u = (y.to(dtype) * F.silu(z.to(dtype))).unflatten(-1, (groups, channels // groups))
    if isinstance(count, torch.Tensor):
        if count.dim() > 1 or (count.dim() == 1 and count.shape[0] != groups):
            raise ValueError(f"count is a 0-dim tensor or one of [{groups}] (groups), not {tuple(count.shape)}")
        out = _normalise(u, eps, count.unsqueeze(-1))
    else:
        out = _stock_norm(u, None, eps, channels // groups if count is None else count)
    out = out.flatten(-2)
    return (out if weight is None else out * weight.to(dtype)).to(y.dtype)


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
