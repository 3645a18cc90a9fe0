# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The stack, which runs the kept layers at the width of the micro-batch's member, and the spec that names its modules.

They have the parameter names of the default spec, on CPU and GPU alike: stock checkpoints load into the elastic model
and back. TransformerEngine is not needed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
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
from torch.utils.checkpoint import checkpoint

from nemo_elastic.errors import bad
from nemo_elastic.nn.documents import Documents

from .choice import WHOLE, ElasticState, ForwardChoice, recomputing
from .compat import HYBRID, Stack, StackSubmodules, mlp_entry
from .linear import ElasticLayerNormColumnParallelLinear, ElasticRowLinear
from .modules import ElasticMambaMixer, ElasticMLP, ElasticRMSNorm, ElasticSelfAttention


class ElasticMambaStack(Stack):
    """megatron-core's stack with slicing, gates, a final norm of our own and recomputation of activations.

    Attributes:
        elastic: the model's state; None in a model that only ever runs whole (a stock parent, the teacher).
    """

    elastic: ElasticState | None = None

    def __init__(self, config: Any, submodules: Any, post_layer_norm: bool = True, **kwargs: Any) -> None:
        for name in ("hidden_dropout", "attention_dropout"):
            if getattr(config, name):
                raise bad(name, getattr(config, name), "0.0: Nemotron-H has no dropout")
        # the base class can only build TransformerEngine's final norm
        super().__init__(config, submodules, post_layer_norm=False, **kwargs)
        self.post_layer_norm = post_layer_norm
        if self.post_process and post_layer_norm:
            self.final_norm = ElasticRMSNorm(config, config.hidden_size, config.layernorm_epsilon)
        self.tp_group = kwargs["pg_collection"].tp

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        inference_context: Any = None,
        rotary_pos_emb: torch.Tensor | None = None,
        packed_seq_params: Any = None,
        documents: Documents | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Run [s, b, D or d] through the kept layers, which read over the bounds of none of the `documents`.

        Between pipeline ranks the stream has the parent's width (their buffers are fixed): a slice is padded with
        zeros at the end of a rank and cut again at the start of the next.
        """
        if inference_context is not None:
            raise bad("inference_context", type(inference_context).__name__, "export the member and decode that")
        if packed_seq_params is not None:
            raise bad("packed_seq_params", type(packed_seq_params).__name__, "documents, which every layer obeys")
        x = hidden_states if self.pre_process else self.input_tensor
        assert x is not None
        run = self.elastic.run(self.tp_group, self.config.sequence_parallel) if self.elastic else WHOLE
        run = run if documents is None else replace(run, documents=documents)
        if run.subnet is not None and x.shape[-1] > run.subnet.hidden:
            x = x[..., : run.subnet.hidden]
        if run.hidden_gate is not None and self.pre_process:
            x = x * run.hidden_gate.to(x.dtype)
        recomputes = self.training and self.config.recompute_granularity == "full" and torch.is_grad_enabled()
        for layer in self.layers:
            index = layer.layer_number - 1
            if run.kept(index) and recomputes:
                # The run, and with it every gate, is an argument of the checkpointed call: recomputation happens when
                # another micro-batch's choice is in force. There is no dropout, so no random state to restore.
                x = checkpoint(
                    run_layer,
                    layer,
                    index,
                    x,
                    run,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=_contexts,
                )
            elif run.kept(index):
                x = run_layer(layer, index, x, run)
        if self.post_process:
            return self.final_norm(x, run) if self.post_layer_norm else x
        return F.pad(x, (0, self.config.hidden_size - x.shape[-1]))


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the forward, and of its recomputation."""
    return nullcontext(), recomputing()


def run_layer(layer: Any, index: int, x: torch.Tensor, run: ForwardChoice) -> torch.Tensor:
    """One layer with its residual connection (bias-dropout-add without bias and dropout): [s, b, d] to the same."""
    run.watch("layer_in", index, x)
    mixer: Any = getattr(layer, "mixer", None)
    inner = x.to(layer.config.params_dtype)
    if mixer is None:
        mlp, norm = getattr(layer, "mlp", None), getattr(layer, "pre_mlp_layernorm", None)
        if mlp is not None and isinstance(norm, ElasticRMSNorm):  # others have theirs in their first linear
            mixer, inner = mlp, norm(inner, run, index)
        else:
            mixer = mlp if isinstance(mlp, ElasticMLP) else layer.self_attention
    y = mixer(inner, run, index)
    gates = run.gates(index)
    x = x + (y if gates is None else y * gates.keep.to(y.dtype))
    run.watch("layer_out", index, x)
    return x


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
        from .moe_layer import moe_layer

        experts = {"moe_layer": moe_layer()}
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
