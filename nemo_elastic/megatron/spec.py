# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The stack spec: elastic modules under the parameter names of the default spec, on CPU and GPU alike.

Stock checkpoints load into the elastic model and back. TransformerEngine is not needed.
"""

from __future__ import annotations

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mamba_mixer import MambaMixerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from .attention import ElasticSelfAttention
from .compat import HYBRID, StackSubmodules, mlp_entry
from .linear import ElasticLayerNormColumnParallelLinear, ElasticRowLinear
from .mixer import ElasticMambaMixer
from .mlp import ElasticMLP
from .stack import ElasticMambaStack


def elastic_stack_spec() -> ModuleSpec:
    """Spec of an `ElasticMambaStack` for `SSMConfig.mamba_stack_spec` and `HybridModelProvider.hybrid_stack_spec`."""
    mamba = ModuleSpec(
        module=ElasticMambaMixer,
        submodules=MambaMixerSubmodules(in_proj=ElasticLayerNormColumnParallelLinear, out_proj=ElasticRowLinear),
    )
    attention = ModuleSpec(
        module=ElasticSelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ElasticLayerNormColumnParallelLinear,  # pyright: ignore[reportArgumentType]
            core_attention=IdentityOp,  # pyright: ignore[reportArgumentType]  # SDPA is called by our forward
            linear_proj=ElasticRowLinear,  # pyright: ignore[reportArgumentType]
        ),
    )
    mlp = mlp_entry(
        ElasticMLP, MLPSubmodules(linear_fc1=ElasticLayerNormColumnParallelLinear, linear_fc2=ElasticRowLinear)
    )  # pyright: ignore
    experts = {}
    if HYBRID:
        from .moe import moe_layer

        experts["moe_layer"] = moe_layer()
    return ModuleSpec(
        module=ElasticMambaStack,
        submodules=StackSubmodules(
            mamba_layer=ModuleSpec(
                module=MambaLayer, submodules=MambaLayerSubmodules(mixer=mamba, mamba_bda=get_bias_dropout_add)
            ),
            attention_layer=ModuleSpec(
                module=TransformerLayer,
                submodules=TransformerLayerSubmodules(self_attention=attention, self_attn_bda=get_bias_dropout_add),
            ),
            mlp_layer=ModuleSpec(
                module=MLPLayer, submodules=TransformerLayerSubmodules(mlp=mlp, mlp_bda=get_bias_dropout_add)
            ),
            **experts,
        ),
    )
