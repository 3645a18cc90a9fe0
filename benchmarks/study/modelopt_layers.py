# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that ModelOpt can prune on a CPU: TransformerEngine's, which it cuts, in torch.

It imports TransformerEngine and takes hybrid models of megatron-core 0.19 in its spec alone, with norms fused into
the linears behind them. A CPU has no TransformerEngine, so before ModelOpt is imported megatron-core gets modules
under the same names, with the same parameters and with the attributes that ModelOpt reads and cuts.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.extensions import transformer_engine as engine
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mamba_mixer import MambaMixerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from nemo_elastic.kernels import MambaWidths
from nemo_elastic.megatron.compat import convolution
from nemo_elastic.megatron.modules import GatedNormWeight
from nemo_elastic.nn.functional import gated_rms_norm, rms_norm
from nemo_elastic.nn.mixer import MixerWeights, torch_scan


class Linear(torch.nn.Module):
    """TransformerEngine's linear under megatron-core's arguments, on one rank and without bias."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, bias: bool = False, **_: Any) -> None:
        super().__init__()
        assert not bias
        self.config, self.in_features, self.out_features = config, input_size, output_size
        self.weight = torch.nn.Parameter(torch.zeros(output_size, input_size, dtype=config.params_dtype))

    def forward(self, x: torch.Tensor) -> tuple[Any, None]:
        return F.linear(x, self.weight), None


class ColumnLinear(Linear):
    pass


class RowLinear(Linear):
    pass


class NormLinear(Linear):
    """RMSNorm and linear; gives what it has normalised as well where it is asked to, as ModelOpt does to measure."""

    te_return_bias = return_layernorm_output = False

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.eps = config.layernorm_epsilon
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(input_size, dtype=config.params_dtype))

    def forward(self, x: torch.Tensor) -> tuple[Any, None]:
        x = rms_norm(x, self.layer_norm_weight, self.eps)
        y = F.linear(x, self.weight)
        return ((y, x) if self.return_layernorm_output else y), None


class RMSNorm(torch.nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, torch.nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(torch.nn.Module):
    """Causal grouped-query attention of [s, b, heads, channels]."""

    def __init__(self, config: Any, layer_number: int, attn_mask_type: Any, attention_type: str, **_: Any) -> None:
        super().__init__()
        self.num_attention_heads = config.num_attention_heads

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        y_bhsc = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return y_bhsc.permute(2, 0, 1, 3).flatten(2)


class GatedNorm(GatedNormWeight):
    """mamba_ssm's gated norm in torch, with the attributes that ModelOpt cuts."""

    def __init__(self, hidden_size: int, group_size: int, **kwargs: Any) -> None:
        super().__init__(hidden_size, **kwargs)
        self.group_size, self.bias = group_size, None

    def forward(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return gated_rms_norm(y, z, self.weight, self.weight.shape[0] // self.group_size, self.eps)


class PrunableMixer(mamba_mixer.MambaMixer):
    """megatron-core's mixer and forward, which ModelOpt knows; only the scan inside is another."""

    def _ssm_training(self, zxBCdt: torch.Tensor, packed_seq_params: Any = None) -> torch.Tensor:
        conv_weight, conv_bias = convolution(self)
        weights = MixerWeights(
            conv_weight=conv_weight,
            conv_bias=conv_bias,
            a=-torch.exp(self.A_log.float()),
            d=self.D.float(),
            dt_bias=self.dt_bias.float(),
            norm=self.norm.weight,
        )
        heads = self.d_inner_local_tp // self.headdim  # ModelOpt cuts both
        widths = MambaWidths(heads, self.headdim, self.ngroups_local_tp, self.d_state)
        y_bli, z_bli = torch_scan(zxBCdt.transpose(0, 1), weights, widths)
        return self.norm(y_bli, z_bli).transpose(0, 1)


#: name in megatron-core -> what it is here
ENGINE: dict[str, type] = {
    "TELinear": Linear,
    "TEColumnParallelLinear": ColumnLinear,
    "TERowParallelLinear": RowLinear,
    "TELayerNormColumnParallelLinear": NormLinear,
    "TEDotProductAttention": Attention,
    # of experts, which no model here has; ModelOpt wants classes to register
    "TEColumnParallelGroupedLinear": type("ColumnGroupedLinear", (torch.nn.Module,), {}),
    "TERowParallelGroupedLinear": type("RowGroupedLinear", (torch.nn.Module,), {}),
}


class PrunableStack(HybridStack):
    """HybridStack, which by itself builds TransformerEngine's final norm."""

    def __init__(self, config: Any, submodules: Any, post_layer_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(config, submodules, post_layer_norm=False, **kwargs)
        self.post_layer_norm = post_layer_norm
        self.final_norm = RMSNorm(config.hidden_size, config.layernorm_epsilon)


def prunable_stack_spec() -> ModuleSpec:
    """Spec of a `PrunableStack` for `HybridModel`: megatron-core's own with the modules of this file."""
    mixer = ModuleSpec(PrunableMixer, submodules=MambaMixerSubmodules(in_proj=NormLinear, out_proj=RowLinear))
    attention = ModuleSpec(
        SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=NormLinear,
            core_attention=Attention,
            linear_proj=RowLinear,  # pyright: ignore
        ),
    )
    mlp = partial(MLP.as_mlp_submodule, submodules=MLPSubmodules(linear_fc1=NormLinear, linear_fc2=RowLinear))  # pyright: ignore
    return ModuleSpec(
        PrunableStack,
        submodules=HybridStackSubmodules(
            mamba_layer=ModuleSpec(
                MambaLayer, submodules=MambaLayerSubmodules(mixer=mixer, mamba_bda=get_bias_dropout_add)
            ),
            attention_layer=ModuleSpec(
                TransformerLayer,
                submodules=TransformerLayerSubmodules(self_attention=attention, self_attn_bda=get_bias_dropout_add),
            ),
            mlp_layer=ModuleSpec(
                MLPLayer, submodules=TransformerLayerSubmodules(mlp=mlp, mlp_bda=get_bias_dropout_add)
            ),
        ),
    )


@contextmanager
def seen(*names: str) -> Iterator[None]:
    """While it lasts, packages of these names can be imported; there is nothing in them but what was put there."""
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules |= modules
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def prepare_modelopt() -> Any:
    """ModelOpt's `torch.prune`, which sees Mamba and these layers; for a process that does nothing but prune.

    Must run before anything else imports ModelOpt: it decides about Mamba on import, by `import mamba_ssm`.
    """
    if "modelopt.torch.nas.plugins.megatron" in sys.modules:
        raise RuntimeError("ModelOpt was imported before it could know of Mamba: prune in a process of its own")
    # megatron-core's gated norm is a mock where mamba_ssm is missing
    mamba_mixer.HAVE_MAMBA_SSM, mamba_mixer.ExtendedRMSNorm = True, GatedNorm
    mamba_mixer.RMSNormGated = object
    # gloo gathers no numbers without a dimension, which depth pruning does, and NCCL takes them
    gather = torch.distributed.all_gather_into_tensor
    torch.distributed.all_gather_into_tensor = lambda out, value, **kw: gather(out, value.reshape(-1), **kw)
    for name, module in ENGINE.items():
        setattr(engine, name, module)
    with seen("mamba_ssm", "transformer_engine"):
        norms = type("pytorch", (), {"RMSNorm": RMSNorm, "LayerNorm": type("LayerNorm", (torch.nn.Module,), {})})
        sys.modules["transformer_engine"].pytorch = norms  # pyright: ignore[reportAttributeAccessIssue]
        import modelopt.torch.prune as prune
        import modelopt.torch.prune.plugins.mcore_minitron  # noqa: F401  (says why, where it cannot be imported)
    return prune
