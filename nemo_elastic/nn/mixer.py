# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The inside of a Mamba-2 layer at any width, gated or not: convolution, scan and gated norm.

In torch (`nn.ssd`), or by the kernels of mamba_ssm. Letters beside those of `nn`: o the projection's
[z | x | B | C | dt], i heads x head channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.cache import MambaState
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.functional import gated_rms_norm, rms_norm, work_dtype
from nemo_elastic.nn.ssd import causal_conv1d, ssd_chunked, ssd_step

Call = Callable[..., torch.Tensor]


def _recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """Call a chain of element-wise steps and recompute it for gradients, instead of keeping its activations."""
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


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


def gate_projection(zxbcdt_blo: torch.Tensor, widths: MambaWidths, gate_i: torch.Tensor | None) -> torch.Tensor:
    """Gates of the inner channels times the input projection's z and x; B, C and dt stay."""
    if gate_i is None:
        return zxbcdt_blo
    return zxbcdt_blo * torch.cat([gate_i, gate_i, gate_i.new_ones(widths.projection - 2 * widths.inner)])


def mix(
    zxbcdt_blo: torch.Tensor,
    weights: MixerWeights,
    widths: MambaWidths,
    eps: float,
    gate_i: torch.Tensor | None = None,
    kernels: Kernels | None = None,
    state: MambaState | None = None,
    documents: Documents | None = None,
) -> torch.Tensor:
    """Convolution, scan and gated norm between the two projections, [b, l, i]; in torch without `kernels`.

    `zxbcdt_blo` is gated already. The gates of the inner channels multiply before and after the norm, whose mean runs
    over their sum. A decoding `state`, in torch only, moves on.
    """
    w, groups, count_g = weights, widths.groups, None
    index_bl = None if documents is None else documents.index(zxbcdt_blo.device)
    if kernels is None:
        y_bli, z_bli = torch_scan(zxbcdt_blo, w, widths, state, index_bl)
    else:  # which multiply by silu(z)
        scan = _fused_scan if widths.fused else _split_scan
        y_bli, z_bli = scan(kernels, zxbcdt_blo, w, widths, index_bl), None
    if gate_i is not None:
        count_g = gate_i.to(work_dtype(gate_i)).view(groups, -1).sum(-1)
        y_bli = y_bli * gate_i
    if z_bli is None:
        y_bli = rms_norm(y_bli, w.norm, eps, count_g, groups)
    else:
        y_bli = _recomputed(gated_rms_norm, y_bli, z_bli, w.norm, groups, eps, count_g)
    return y_bli if gate_i is None else y_bli * gate_i


def torch_scan(
    zxbcdt_blo: torch.Tensor,
    w: MixerWeights,
    widths: MambaWidths,
    state: MambaState | None = None,
    index_bl: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolution and scan in torch; returns (y, z), both [b, l, i], before the gated norm."""
    z, xbc, dt = widths.split(zxbcdt_blo)
    if state is None:
        xbc = _recomputed(causal_conv1d, xbc, w.conv_weight, w.conv_bias, None, False, index_bl)
        x, b, c = widths.scanned(xbc)
        y = ssd_chunked(x, dt, w.a, b, c, w.d, w.dt_bias, index_bl=index_bl)
        assert isinstance(y, torch.Tensor)
        return y.flatten(-2), z
    state.append(xbc)
    xbc, state.conv_bck = causal_conv1d(xbc, w.conv_weight, w.conv_bias, state.conv_bck, return_state=True)
    x, b, c = widths.scanned(xbc)
    if x.shape[1] > 1 and state.history is None:
        y, after = ssd_chunked(x, dt, w.a, b, c, w.d, w.dt_bias, None, state.ssm_bhpn, True)
        state.advance(after)
        return y.flatten(-2), z
    steps = []
    for each in zip(*(t.unbind(1) for t in (x, dt, b, c)), strict=True):
        y, after = ssd_step(each[0], each[1], w.a, each[2], each[3], w.d, w.dt_bias, state.ssm_bhpn)
        state.advance(after)
        steps.append(y)
    return torch.stack(steps, 1).flatten(-2), z


def _fused_scan(
    kernels: Kernels, zxbcdt_blo: torch.Tensor, w: MixerWeights, widths: MambaWidths, index_bl: torch.Tensor | None
) -> torch.Tensor:
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
        seq_idx=index_bl,
    )


def _split_scan(
    kernels: Kernels, zxbcdt_blo: torch.Tensor, w: MixerWeights, widths: MambaWidths, index_bl: torch.Tensor | None
) -> torch.Tensor:
    """The convolution and the scan as two calls, each on tensors of its own.

    For rows that the fused call gets wrong. Padding them helps its forward only: its backward allocates the gradient
    by `empty_like`, dense again, and mamba_ssm before 2.3 lets the convolution write into that.
    """
    z, xbc, dt = (part.contiguous() for part in widths.split(zxbcdt_blo))
    # by documents the kernel takes rows of channels alone, which these are
    xbc = kernels.conv(
        xbc.transpose(1, 2), w.conv_weight.squeeze(1), w.conv_bias, seq_idx=index_bl, activation="silu"
    ).transpose(1, 2)
    x, b, c = widths.scanned(xbc)
    z = z.unflatten(-1, x.shape[-2:])
    y = kernels.scan(
        x, dt, w.a, b, c, kernels.chunk_size, D=w.d, z=z, dt_bias=w.dt_bias, dt_softplus=True, seq_idx=index_bl
    )
    return y.flatten(-2)
