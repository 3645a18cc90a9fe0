# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The inside of a Mamba-2 layer at any width, gated or not, by the kernels of mamba_ssm or in torch.

b: batch, l: length, o: the projection's [z | x | B | C | dt], i: heads * head channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.conv import causal_conv1d
from nemo_elastic.nn.mamba import mamba_inside
from nemo_elastic.nn.norm import gated_rms_norm
from nemo_elastic.nn.ssd import ssd_chunked

Call = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Kernels:
    """The three calls of the CUDA packages.

    Attributes:
        fused: mamba_ssm's mamba_split_conv1d_scan_combined.
        scan: mamba_ssm's mamba_chunk_scan_combined.
        conv: causal_conv1d's causal_conv1d_fn.
        chunk_size: positions of a chunk of the scan.
    """

    fused: Call
    scan: Call
    conv: Call
    chunk_size: int


@dataclass(frozen=True)
class MixerWeights:
    """A Mamba layer's own tensors on one rank: conv_weight [c, 1, k], a (negative), d, dt_bias [heads], norm [i]."""

    conv_weight: torch.Tensor
    conv_bias: torch.Tensor
    a: torch.Tensor
    d: torch.Tensor
    dt_bias: torch.Tensor
    norm: torch.Tensor


def mix(
    zxbcdt_blo: torch.Tensor,
    weights: MixerWeights,
    widths: MambaWidths,
    eps: float,
    gate_i: torch.Tensor | None = None,
    kernels: Kernels | None = None,
) -> torch.Tensor:
    """Convolution, scan and gated norm between the two projections.

    Args:
        zxbcdt_blo: output of the input projection, gated already.
        weights: of this rank and run.
        widths: of this rank and run.
        eps: of the norm.
        gate_i: gates of the inner channels; they multiply before and after the norm, whose mean runs over their sum.
        kernels: None computes in torch.

    Returns:
        [b, l, i], what the output projection takes.
    """
    w, groups = weights, widths.groups
    if kernels is None and gate_i is None:
        return mamba_inside(
            zxbcdt_blo, w.conv_weight, w.conv_bias, w.a, w.d, w.dt_bias, w.norm, groups, widths.state, eps
        )
    count = None if gate_i is None else gate_i.float().view(groups, -1).sum(-1)
    if kernels is None:
        assert gate_i is not None
        y_bli, z_bli = torch_scan(zxbcdt_blo, w, widths)
        y_bli = gated_rms_norm(y_bli * gate_i, z_bli, w.norm, groups, eps, count)
    else:
        y_bli = kernel_scan(kernels, zxbcdt_blo, w, widths)
        y_bli = y_bli if gate_i is None else y_bli * gate_i
        # the kernel has multiplied by silu(z) already: SiLU(z) = 1 is not expressible, so norm without a gate
        y_bli = _group_norm(y_bli, w.norm, groups, eps, count)
    return y_bli if gate_i is None else y_bli * gate_i


def torch_scan(zxbcdt_blo: torch.Tensor, w: MixerWeights, widths: MambaWidths) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolution and scan in torch; returns (y, z), both [b, l, i], before the gated norm."""
    z, xbc, dt = widths.split(zxbcdt_blo)
    xbc = causal_conv1d(xbc, w.conv_weight, w.conv_bias)
    assert isinstance(xbc, torch.Tensor)
    x, b, c = widths.scanned(xbc)
    y = ssd_chunked(x, dt, w.a, b, c, w.d, w.dt_bias)
    assert isinstance(y, torch.Tensor)
    return y.flatten(-2), z


def kernel_scan(kernels: Kernels, zxbcdt_blo: torch.Tensor, w: MixerWeights, widths: MambaWidths) -> torch.Tensor:
    """Convolution, scan and SiLU gate by kernels; returns y * silu(z), [b, l, i]."""
    return (_fused_scan if widths.fused else _split_scan)(kernels, zxbcdt_blo, w, widths)


def _fused_scan(kernels: Kernels, zxbcdt_blo: torch.Tensor, w: MixerWeights, widths: MambaWidths) -> torch.Tensor:
    return kernels.fused(
        zxbcdt_blo.contiguous(),
        w.conv_weight.squeeze(1),
        w.conv_bias,
        w.dt_bias,
        w.a,
        D=w.d,
        chunk_size=kernels.chunk_size,
        activation="silu",
        headdim=widths.head_dim,
        ngroups=widths.groups,
        norm_before_gate=False,
    )


def _split_scan(kernels: Kernels, zxbcdt_blo: torch.Tensor, w: MixerWeights, widths: MambaWidths) -> torch.Tensor:
    """The convolution and the scan called apart, each on tensors of its own.

    For rows that the fused call gets wrong. Padding them helps its forward only: its backward allocates the gradient
    by `empty_like`, dense again, and mamba_ssm before 2.3 lets the convolution write into that.
    """
    z, xbc, dt = (part.contiguous() for part in widths.split(zxbcdt_blo))
    xbc = kernels.conv(xbc.transpose(1, 2), w.conv_weight.squeeze(1), w.conv_bias, activation="silu").transpose(1, 2)
    x, b, c = widths.scanned(xbc)
    z = z.unflatten(-1, x.shape[-2:])
    y = kernels.scan(x, dt, w.a, b, c, kernels.chunk_size, D=w.d, z=z, dt_bias=w.dt_bias, dt_softplus=True)
    return y.flatten(-2)


def _group_norm(
    y_bli: torch.Tensor, weight: torch.Tensor, groups: int, eps: float, count: torch.Tensor | None
) -> torch.Tensor:
    """RMSNorm per group of an already gated y."""
    y = y_bli.float().unflatten(-1, (groups, -1))
    n = y.shape[-1] if count is None else count[:, None]
    y = y * (y.square().sum(-1, keepdim=True) / n + eps).rsqrt()
    return (y.flatten(-2) * weight.float()).to(y_bli.dtype)
