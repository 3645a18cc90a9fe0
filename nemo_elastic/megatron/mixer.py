# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba-2 mixer that runs a slice of its heads, head channels and input width, or gated at full size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_mixer import MambaMixer

from nemo_elastic.nn.conv import causal_conv1d
from nemo_elastic.nn.mamba import mamba_inside
from nemo_elastic.nn.norm import gated_rms_norm
from nemo_elastic.nn.ssd import ssd_chunked

from .norm import GatedNormWeight
from .run import WHOLE, Run

#: causal_conv1d's kernel wants row strides divisible by this many elements
ROW_ALIGNMENT = 8


class ElasticMambaMixer(MambaMixer):
    """megatron-core's mixer (parameters, sharding) with a forward of our own that takes widths.

    On CUDA the fused kernel of mamba_ssm gets the sliced tensors; elsewhere, and without mamba_ssm, `nn.mamba` does
    the same in torch. Under gates, which act between its steps, the steps are called one by one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The constructor asks for mamba_ssm, of which it only uses the norm class: ours holds the same weight.
        with mock.patch.multiple(
            mamba_mixer, HAVE_MAMBA_SSM=True, ExtendedRMSNorm=GatedNormWeight, RMSNormGated=object
        ):
            super().__init__(*args, **kwargs)
        self.eps = self.norm.eps

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: torch.Tensor, run: Run = WHOLE, index: int = -1
    ) -> torch.Tensor:
        """Mix [s, b, d] (width of the run) along the sequence.

        Args:
            hidden_states: residual stream, before the norm that is fused into the input projection.
            run: the micro-batch's choice.
            index: layer index in the parent.

        Returns:
            [s, b, d], to be added to the residual stream.
        """
        rows = run.select("mamba.in_proj", 0, index)
        zxbcdt_sbo = self.in_proj(hidden_states, run, index, rows)
        layer = run.layer(index)
        heads, head_dim = self.nheads_local_tp, self.headdim
        if layer is not None:
            assert layer.heads is not None and layer.head_dim is not None
            heads, head_dim = layer.heads // run.world, layer.head_dim
        inner, groups, bc = heads * head_dim, self.ngroups_local_tp, self.ngroups_local_tp * self.d_state

        gates = run.gates(index)
        channel_gate = None if gates is None else gates.channels().to(zxbcdt_sbo.dtype)
        if channel_gate is not None:  # z and x; B, C and dt stay
            rigid = torch.ones(2 * bc + heads, dtype=channel_gate.dtype, device=channel_gate.device)
            zxbcdt_sbo = zxbcdt_sbo * torch.cat([channel_gate, channel_gate, rigid])
        run.watch("mamba_x", index, zxbcdt_sbo[..., inner : 2 * inner].unflatten(-1, (heads, head_dim)))

        def cut(row: str, t: torch.Tensor) -> torch.Tensor:
            kept = run.select(row, 0, index)
            return t if kept is None else kept.take(t, 0)

        weights = {  # in the order of mamba_inside
            "conv_weight": cut("mamba.conv_weight", self.conv1d.weight),
            "conv_bias": cut("mamba.conv_bias", self.conv1d.bias),
            "a": -torch.exp(cut("mamba.a_log", self.A_log).float()),
            "d": cut("mamba.d", self.D).float(),
            "dt_bias": cut("mamba.dt_bias", self.dt_bias).float(),
        }
        norm = cut("mamba.norm", self.norm.weight)
        zxbcdt_blo = zxbcdt_sbo.transpose(0, 1)
        count = None
        if channel_gate is not None:
            count = channel_gate.float().view(groups, -1).sum(-1)
        kernel = fused_kernel(zxbcdt_sbo)
        if kernel is None and channel_gate is None:
            y_bli = mamba_inside(zxbcdt_blo, *weights.values(), norm, groups, self.d_state, self.eps)
        elif kernel is not None:
            y_bli = fused_scan(kernel, zxbcdt_blo, weights, head_dim, groups, self.chunk_size)
            y_bli = y_bli if channel_gate is None else y_bli * channel_gate
            # the kernel has multiplied by silu(z) already: SiLU(z) = 1 is not expressible, so norm without a gate
            y_bli = _group_norm(y_bli, norm, groups, self.eps, count)
        else:
            y_bli, z_bli = torch_scan(zxbcdt_blo, weights, inner, head_dim, groups, self.d_state)
            y_bli = gated_rms_norm(y_bli * channel_gate, z_bli, norm, groups, self.eps, count)
        if channel_gate is not None:
            y_bli = y_bli * channel_gate
        return self.out_proj(y_bli.transpose(0, 1), run, run.select("mamba.out_proj", 1, index))


def torch_scan(
    zxbcdt_blo: torch.Tensor, w: dict[str, torch.Tensor], inner: int, head_dim: int, groups: int, state: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolution and scan in torch; returns (y, z), both [b, l, inner], before the gated norm."""
    heads, bc = inner // head_dim, groups * state
    z, xbc, dt = zxbcdt_blo.split([inner, inner + 2 * bc, heads], dim=-1)
    xbc = causal_conv1d(xbc, w["conv_weight"], w["conv_bias"])
    assert isinstance(xbc, torch.Tensor)
    x, b, c = xbc.split([inner, bc, bc], dim=-1)
    y = ssd_chunked(
        x.unflatten(-1, (heads, head_dim)),
        dt,
        w["a"],
        b.unflatten(-1, (groups, state)),
        c.unflatten(-1, (groups, state)),
        w["d"],
        w["dt_bias"],
    )
    assert isinstance(y, torch.Tensor)
    return y.flatten(-2), z


def fused_kernel(x: torch.Tensor) -> Callable[..., torch.Tensor] | None:
    """mamba_ssm's fused scan where `x` can use it: on CUDA, if megatron-core could import it."""
    # where the import failed (no mamba_ssm, or one from before Mamba-2) megatron-core has no such name
    return getattr(mamba_mixer, "mamba_split_conv1d_scan_combined", None) if x.is_cuda else None


def fused_scan(
    kernel: Callable[..., torch.Tensor],
    zxbcdt_blo: torch.Tensor,
    w: dict[str, torch.Tensor],
    head_dim: int,
    groups: int,
    chunk_size: int,
) -> torch.Tensor:
    """The kernel's convolution, scan and SiLU gate on sliced tensors; returns y * silu(z), [b, l, inner]."""
    return kernel(
        align_rows(zxbcdt_blo),
        w["conv_weight"].squeeze(1),
        w["conv_bias"],
        w["dt_bias"],
        w["a"],
        D=w["d"],
        chunk_size=chunk_size,
        activation="silu",
        headdim=head_dim,
        ngroups=groups,
        norm_before_gate=False,
    )


def align_rows(x_blo: torch.Tensor) -> torch.Tensor:
    """The same values with a row stride divisible by 8, which causal_conv1d demands and a sliced width may lack."""
    width = x_blo.shape[-1]
    pad = -width % ROW_ALIGNMENT
    return x_blo.contiguous() if not pad else F.pad(x_blo, (0, pad))[..., :width]


def _group_norm(
    y_bli: torch.Tensor, weight: torch.Tensor, groups: int, eps: float, count: torch.Tensor | None
) -> torch.Tensor:
    """RMSNorm per group of an already gated y."""
    y = y_bli.float().unflatten(-1, (groups, -1))
    n = y.shape[-1] if count is None else count[:, None]
    y = y * (y.square().sum(-1, keepdim=True) / n + eps).rsqrt()
    return (y.flatten(-2) * weight.float()).to(y_bli.dtype)
