# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An independent oracle: megatron-core's MambaModel with layers in the plainest torch there is, CPU only.

Nothing of `nemo_elastic` is imported, nor any kernel: the state space runs as its recurrence over time, attention as a
softmax over a full matrix, the convolution as a sum over taps. Module and parameter names are those of megatron-core's
default `mamba_stack_spec` (TransformerEngine), so that a stock checkpoint loads strictly. One process, inference only.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from unittest import mock

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_block import MambaStack, MambaStackSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


class Norm(torch.nn.Module):
    def __init__(self, config, hidden_size, eps=1e-5, **_) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(hidden_size)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms(x, self.weight, self.eps)


class GatedNorm(torch.nn.Module):
    """Gate, then normalise each group by itself (`norm_before_gate=False`), under the names that ModelOpt changes."""

    def __init__(self, width, eps=1e-5, group_size=None, norm_before_gate=False, **_) -> None:
        super().__init__()
        assert not norm_before_gate
        self.weight, self.bias = torch.nn.Parameter(torch.ones(width)), None
        self.eps, self.group_size = eps, group_size

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        gated = x * z * torch.sigmoid(z)
        parts = [rms(g, torch.ones(()), self.eps) for g in gated.split(self.group_size, -1)]
        return torch.cat(parts, -1) * self.weight


class NormLinear(ColumnParallelLinear):
    """TransformerEngine's fused norm and linear: the norm's weight is `layer_norm_weight` of the linear."""

    def __init__(self, input_size, output_size, *, config, **kwargs) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.layer_norm_weight, self.eps = torch.nn.Parameter(torch.empty(input_size)), config.layernorm_epsilon

    def forward(self, x, *_, **__):
        return rms(x, self.layer_norm_weight, self.eps) @ self.weight.T, None


class Linear(RowParallelLinear):
    def forward(self, x):
        return x @ self.weight.T, None


class Mixer(mamba_mixer.MambaMixer):
    """Mamba-2 as its definition: h[t] = exp(A dt) h[t-1] + dt B x, y = C h + D x, one step after the other."""

    def __init__(self, *args, **kwargs) -> None:
        with mock.patch.multiple(mamba_mixer, HAVE_MAMBA_SSM=True, ExtendedRMSNorm=GatedNorm):
            super().__init__(*args, **kwargs)

    def forward(self, hidden_states, *_, **__):
        projected, _ = self.in_proj(hidden_states)
        inner, n, heads = self.d_inner_local_tp, self.ngroups_local_tp * self.d_state, self.nheads_local_tp
        z, xbc, dt = projected.split([inner, inner + 2 * n, heads], -1)
        taps = self.conv1d.weight[:, 0]
        padded = torch.cat([torch.zeros(taps.shape[1] - 1, *xbc.shape[1:]), xbc])
        mixed = sum(padded[k : k + len(xbc)] * taps[:, k] for k in range(taps.shape[1])) + self.conv1d.bias
        mixed = mixed * torch.sigmoid(mixed)
        x, b, c = mixed.split([inner, n, n], -1)
        x = x.unflatten(-1, (heads, -1))
        b, c = (
            t.unflatten(-1, (self.ngroups_local_tp, -1)).repeat_interleave(heads // self.ngroups_local_tp, -2)
            for t in (b, c)
        )
        dt = torch.log1p(torch.exp(dt + self.dt_bias))
        decay = torch.exp(-torch.exp(self.A_log) * dt)
        state, outputs = torch.zeros(*x.shape[1:], self.d_state), []
        for t in range(len(x)):
            state = decay[t][..., None, None] * state + (dt[t][..., None] * x[t])[..., None] * b[t][..., None, :]
            outputs.append((state * c[t][..., None, :]).sum(-1) + self.D[:, None] * x[t])
        y = torch.stack(outputs).flatten(-2)
        return self.out_proj(self.norm(y, z))


class Core(torch.nn.Module):
    """Causal attention over a full matrix; query head i reads key-value head i // (heads per group)."""

    def __init__(self, config, **_) -> None:
        super().__init__()

    def forward(self, query, key, value, *_, **__):
        per = query.shape[2] // key.shape[2]
        key, value = key.repeat_interleave(per, 2), value.repeat_interleave(per, 2)
        scores = torch.einsum("sbhd,tbhd->bhst", query, key) / math.sqrt(query.shape[-1])
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return torch.einsum("bhst,tbhd->sbhd", weights, value).flatten(-2)


class Stack(MambaStack):
    """The base class can only build TransformerEngine's final norm."""

    def __init__(self, config, submodules, post_layer_norm=True, **kwargs) -> None:
        super().__init__(config, submodules, post_layer_norm=False, **kwargs)
        self.post_layer_norm, self.final_norm = True, Norm(config, config.hidden_size, config.layernorm_epsilon)


def stock_spec() -> ModuleSpec:
    s = SimpleNamespace(
        mamba=ModuleSpec(Mixer, submodules=mamba_mixer.MambaMixerSubmodules(in_proj=NormLinear, out_proj=Linear)),
        mlp=ModuleSpec(MLP, submodules=MLPSubmodules(linear_fc1=NormLinear, linear_fc2=Linear)),
        attention=ModuleSpec(
            SelfAttention,
            params={"attn_mask_type": AttnMaskType.causal},
            submodules=SelfAttentionSubmodules(linear_qkv=NormLinear, core_attention=Core, linear_proj=Linear),
        ),
    )
    add = get_bias_dropout_add
    return ModuleSpec(
        Stack,
        submodules=MambaStackSubmodules(
            mamba_layer=ModuleSpec(MambaLayer, submodules=MambaLayerSubmodules(mixer=s.mamba, mamba_bda=add)),
            attention_layer=ModuleSpec(
                TransformerLayer,
                submodules=TransformerLayerSubmodules(self_attention=s.attention, self_attn_bda=add),
            ),
            mlp_layer=ModuleSpec(MLPLayer, submodules=TransformerLayerSubmodules(mlp=s.mlp, mlp_bda=add)),
        ),
    )
