# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""megatron-core's modules, its parameters and sharding, with forwards of our own that run a slice or obey gates.

Each takes the residual stream at the member's width and returns the update to add to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_mixer import MambaMixer
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.mlp import MLP

from nemo_elastic.core.kinds.attention import ATTENTION_HEADS, KV_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.functional import causal_attention
from nemo_elastic.nn.mixer import Kernels, MixerWeights, mix

from .choice import WHOLE, ForwardChoice
from .compat import convolution, shard, with_globals
from .context import context_group, own_share, to_heads, to_positions


class ElasticRMSNorm(torch.nn.Module):
    """A norm outside of a linear: the stack's final norm and that of experts. Every rank has the whole weight."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x_sbd: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1) -> torch.Tensor:
        x_sbd = run.norm(x_sbd, self.weight, self.eps)
        run.watch("hidden", index, x_sbd)
        return x_sbd


class GatedNormWeight(torch.nn.Module):
    """Holds the gated norm's weight where mamba_ssm's RMSNormGated would: the mixer does the arithmetic itself."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, device: Any = None, dtype: Any = None, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: Any = None) -> dict:
        """Sharded along dimension 0, as mamba_ssm's norm is in megatron-core."""
        return shard(self.state_dict(prefix="", keep_vars=True), prefix, {"weight": 0}, sharded_offsets)


class ElasticSelfAttention(SelfAttention):
    """megatron-core's parameters and sharding; causal SDPA without positions, as Nemotron-H has none."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1, **_: Any
    ) -> torch.Tensor:
        """Attend over [s, b, d] (width of the run); returns [s, b, d], to be added to the residual stream."""
        qkv_sbo = self.linear_qkv(hidden_states, run, index, "attention.q")
        kv, dim, layer = self.num_query_groups_per_partition, self.hidden_size_per_attention_head, run.layer(index)
        if layer is not None and KV_HEADS in layer.widths:
            kv = layer.widths[KV_HEADS] // run.world
        ranks = context_group(self)
        if ranks is not None:
            qkv_sbo, kv = _shared_queries(qkv_sbo, kv, dim, ranks.size())
            qkv_sbo, kv = to_heads(qkv_sbo, [qkv_sbo.shape[-1]], ranks), kv // ranks.size()
        qkv = qkv_sbo.unflatten(-1, (kv, -1, dim)).permute(1, 2, 3, 0, 4)  # b, groups, queries + 2, s, dim
        q_bhsd = qkv[:, :, :-2].flatten(1, 2)
        y_bhsd = causal_attention(q_bhsd, qkv[:, :, -2], qkv[:, :, -1], documents=run.documents)
        y_sbhd = to_positions(y_bhsd.permute(2, 0, 1, 3).flatten(2), ranks).unflatten(-1, (-1, dim))
        run.watch("attention", index, y_sbhd)
        gates = run.gates(index)
        if gates is not None:
            y_sbhd = y_sbhd * gates.of_blocks(ATTENTION_HEADS, KV_HEADS).to(y_sbhd.dtype)[:, None]
        return self.linear_proj(y_sbhd.flatten(2), run, index, "attention.out")


def _shared_queries(qkv_sbo: torch.Tensor, groups: int, head_dim: int, ranks: int) -> tuple[torch.Tensor, int]:
    """Queries, keys and values by key-value group, with at least as many groups as ranks.

    Where there are fewer, a group's queries are shared out, and each share gets the group's key and value.

    Args:
        qkv_sbo: [s, b, groups x (queries + 2) x head_dim].
        ranks: c, which divide the groups or are a multiple of them.

    Returns:
        The same, and the number of groups.
    """
    copies = max(1, ranks // groups)
    if copies == 1:
        return qkv_sbo, groups
    by_group = qkv_sbo.unflatten(-1, (groups, 1, -1, head_dim))
    queries = by_group[..., :-2, :].reshape(*qkv_sbo.shape[:2], groups, copies, -1, head_dim)
    shared = by_group[..., -2:, :].expand(-1, -1, -1, copies, -1, -1)
    return torch.cat([queries, shared], -2).flatten(2), groups * copies


class ElasticMLP(MLP):
    """megatron-core's parameters and sharding."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1, **_: Any
    ) -> torch.Tensor:
        """Map [s, b, d] (width of the run) to [s, b, d], to be added to the residual stream."""
        h_sbf = self.linear_fc1(hidden_states, run, index, "mlp.up")
        run.watch("ffn_pre", index, h_sbf)
        h_sbf = self.activation_func(h_sbf)
        run.watch("ffn", index, h_sbf)
        gates = run.gates(index)
        if gates is not None:
            h_sbf = h_sbf * gates[FFN].to(h_sbf.dtype)
        return self.linear_fc2(h_sbf, run, index, "mlp.down")


#: The constructor asks for mamba_ssm, of which it only uses the norm class: ours holds the same weight.
_init = with_globals(MambaMixer.__init__, HAVE_MAMBA_SSM=True, ExtendedRMSNorm=GatedNormWeight, RMSNormGated=object)


class ElasticMambaMixer(MambaMixer):
    """megatron-core's mixer (parameters, sharding) with a forward of our own that takes widths.

    On CUDA mamba_ssm's kernels get the sliced tensors; elsewhere, and without mamba_ssm, torch does the same
    (`nn.mixer`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _init(self, *args, **kwargs)
        self.eps = self.norm.eps

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1
    ) -> torch.Tensor:
        """Mix [s, b, d] (width of the run) along the sequence to [s, b, d], to be added to the residual stream."""
        zxbcdt_sbo = self.in_proj(hidden_states, run, index, "mamba.in_proj")
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
        kernels, ranks = kernels_for(zxbcdt_sbo, self.chunk_size), context_group(self)
        if ranks is not None:
            parts = widths.inner, widths.groups * widths.state
            zxbcdt_sbo = to_heads(zxbcdt_sbo, [parts[0], *parts, parts[1], heads], ranks)
            weights = _own_heads(weights, parts, ranks)
            gate_i = None if gate_i is None else own_share(gate_i, [len(gate_i)], ranks)
            widths = replace(widths, heads=heads // ranks.size(), groups=widths.groups // ranks.size())
        zxbcdt_blo = zxbcdt_sbo.transpose(0, 1)
        y_bli = mix(zxbcdt_blo, weights, widths, self.eps, gate_i, kernels, documents=run.documents)
        return self.out_proj(to_positions(y_bli.transpose(0, 1), ranks), run, index, "mamba.out_proj")


def _own_heads(w: MixerWeights, parts: tuple[int, int], ranks: Any) -> MixerWeights:
    """What goes with a rank's share of the heads, which are whole groups; parts: channels of x, and of B as of C."""
    convolved = (own_share(t, [parts[0], parts[1], parts[1]], ranks) for t in (w.conv_weight, w.conv_bias))
    return MixerWeights(*convolved, *(own_share(t, [len(t)], ranks) for t in (w.a, w.d, w.dt_bias, w.norm)))


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
