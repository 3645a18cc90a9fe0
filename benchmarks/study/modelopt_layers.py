# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that ModelOpt 0.37 can prune on a CPU, and the two facts it has to be given there.

`mcore_minitron` wants norms as modules of their own (it reads importance behind them) and megatron-core's plain
linears, mixer and attention. So this is megatron-core's ModelOpt spec with the parts that need CUDA replaced: torch's
RMSNorm for TransformerEngine's, megatron-core's attention in torch, and the scan of this package for mamba_ssm's
kernel. Checkpoints keep the names of the default spec, as they do with megatron-core's.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_block import MambaStack, MambaStackSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from benchmarks.study.modelopt_mixer import PrunableMixer, check_fresh, seen, tell_megatron


class PrunableStack(MambaStack):
    """MambaStack, which by itself builds TransformerEngine's final norm."""

    def __init__(self, config: Any, submodules: Any, post_layer_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(config, submodules, post_layer_norm=False, **kwargs)
        self.post_layer_norm = post_layer_norm
        self.final_norm = WrappedTorchNorm(config, config.hidden_size, config.layernorm_epsilon)


def prunable_stack_spec() -> ModuleSpec:
    """Spec of a `PrunableStack` for `SSMConfig.mamba_stack_spec`."""
    mixer = ModuleSpec(
        PrunableMixer,
        submodules=mamba_mixer.MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear),
    )
    attention = ModuleSpec(
        SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear, core_attention=DotProductAttention, linear_proj=RowParallelLinear
        ),
    )
    mlp = ModuleSpec(MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear))
    return ModuleSpec(
        PrunableStack,
        submodules=MambaStackSubmodules(
            mamba_layer=ModuleSpec(
                MambaLayer,
                submodules=MambaLayerSubmodules(
                    norm=WrappedTorchNorm,
                    mixer=mixer,
                    mamba_bda=get_bias_dropout_add,
                    sharded_state_dict_keys_map={"norm.": "mixer.in_proj.layer_norm_"},
                ),
            ),
            attention_layer=ModuleSpec(
                TransformerLayer,
                submodules=TransformerLayerSubmodules(
                    input_layernorm=WrappedTorchNorm,
                    self_attention=attention,
                    self_attn_bda=get_bias_dropout_add,
                    sharded_state_dict_keys_map={"input_layernorm.": "self_attention.linear_qkv.layer_norm_"},
                ),
            ),
            mlp_layer=ModuleSpec(
                TransformerLayer,
                submodules=TransformerLayerSubmodules(
                    pre_mlp_layernorm=WrappedTorchNorm,
                    mlp=mlp,
                    mlp_bda=get_bias_dropout_add,
                    sharded_state_dict_keys_map={"pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"},
                ),
            ),
        ),
    )


def pattern_of(layers: Any) -> str:
    """The pattern that a stack's layers spell, whatever its config says."""
    return "".join("M" if isinstance(x, MambaLayer) else "-" if isinstance(x.mlp, MLP) else "*" for x in layers)


def prepare_modelopt() -> None:
    """Make ModelOpt see Mamba, torch's RMSNorm and gloo; for a process that does nothing but prune.

    Must run before anything imports ModelOpt: it decides about Mamba on import, by `import mamba_ssm`.
    """
    check_fresh()
    tell_megatron()
    with seen("mamba_ssm"):
        from modelopt.torch.nas.modules import _DynamicLayerNorm
        from modelopt.torch.nas.registry import DMRegistry
        from modelopt.torch.nas.traced_hp import TracedHp

    @DMRegistry.register({torch.nn.RMSNorm: "nn.RMSNorm"})
    class DynamicRMSNorm(_DynamicLayerNorm):  # as theirs, which wants a bias
        def _setup(self) -> None:
            self._register_hparam("num_features", TracedHp(list(range(1, self.normalized_shape[0] + 1))))
            self._register_dynamic_attribute("weight", self._cut_to_active_features)
            self._register_dynamic_attribute("normalized_shape", lambda mod, _: (mod.num_features,))
