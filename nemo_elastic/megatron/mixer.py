# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba-2 mixer that runs a slice of its heads, head channels and input width, or gated at full size."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_mixer import MambaMixer

from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.mixing import Kernels, MixerWeights, mix

from .compat import convolution, with_names
from .norm import GatedNormWeight
from .run import WHOLE, Run

#: The constructor asks for mamba_ssm, of which it only uses the norm class: ours holds the same weight.
_init = with_names(MambaMixer.__init__, HAVE_MAMBA_SSM=True, ExtendedRMSNorm=GatedNormWeight, RMSNormGated=object)


class ElasticMambaMixer(MambaMixer):
    """megatron-core's mixer (parameters, sharding) with a forward of our own that takes widths.

    On CUDA mamba_ssm's kernels get the sliced tensors; elsewhere, and without mamba_ssm, torch does the same
    (`nn.mixing`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _init(self, *args, **kwargs)
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
            heads, head_dim = layer.widths[MAMBA_HEADS] // run.world, layer.widths[MAMBA_HEAD_DIM]
        widths = MambaWidths(heads, head_dim, self.ngroups_local_tp, self.d_state)

        gates = run.gates(index)
        gate_i = None if gates is None else gates.channels(MAMBA_HEADS, MAMBA_HEAD_DIM).to(zxbcdt_sbo.dtype)
        if gate_i is not None:  # z and x; B, C and dt stay
            rigid = torch.ones(widths.projection - 2 * widths.inner, dtype=gate_i.dtype, device=gate_i.device)
            zxbcdt_sbo = zxbcdt_sbo * torch.cat([gate_i, gate_i, rigid])
        x_sbi = zxbcdt_sbo[..., widths.inner : 2 * widths.inner]
        run.watch("mamba_x", index, x_sbi.unflatten(-1, (heads, head_dim)))

        def cut(row: str, t: torch.Tensor) -> torch.Tensor:
            kept = run.select(row, 0, index)
            return t if kept is None else kept.take(t, 0)

        conv_weight, conv_bias = convolution(self)
        weights = MixerWeights(
            conv_weight=cut("mamba.conv_weight", conv_weight),
            conv_bias=cut("mamba.conv_bias", conv_bias),
            a=-torch.exp(cut("mamba.a_log", self.A_log).float()),
            d=cut("mamba.d", self.D).float(),
            dt_bias=cut("mamba.dt_bias", self.dt_bias).float(),
            norm=cut("mamba.norm", self.norm.weight),
        )
        kernels = kernels_for(zxbcdt_sbo, self.chunk_size)
        y_bli = mix(zxbcdt_sbo.transpose(0, 1), weights, widths, self.eps, gate_i, kernels)
        return self.out_proj(y_bli.transpose(0, 1), run, run.select("mamba.out_proj", 1, index))


def have_kernels() -> bool:
    """megatron-core could import mamba_ssm's Mamba-2; it has no such name where it could not, or None."""
    return getattr(mamba_mixer, "mamba_split_conv1d_scan_combined", None) is not None


def kernels_for(x: torch.Tensor, chunk_size: int) -> Kernels | None:
    """The kernels, where `x` can use them."""
    if not (x.is_cuda and have_kernels()):
        return None
    return Kernels(
        mamba_mixer.mamba_split_conv1d_scan_combined,
        mamba_mixer.mamba_chunk_scan_combined,
        mamba_mixer.causal_conv1d_fn,
        chunk_size,
    )
