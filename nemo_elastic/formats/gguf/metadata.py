# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a GGUF file says of a member's shape, and which shapes llama.cpp runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.attention import ATTENTION, ATTENTION_HEADS, HEAD_DIM, KV_HEADS
from nemo_elastic.core.kinds.mamba import GROUPS, MAMBA, MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import FFN, MLP
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT, MOE, SCALING, SHARED_FFN, TOP_K
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["architecture", "describe"]

#: axes that all layers of a kind share in llama.cpp, which reads one number for the model
_ONE_WIDTH = (MAMBA_HEADS, MAMBA_HEAD_DIM, ATTENTION_HEADS, KV_HEADS, EXPERTS, SHARED_FFN, LATENT)


def architecture(member: Subnet) -> str:
    """llama.cpp's name of the model.

    Raises:
        ElasticError: llama.cpp cannot run a member of this shape; the message says why.
    """
    types = {layer.type for layer in member.layers}
    if {MLP, MOE} <= types:
        raise ElasticError("format: llama.cpp reads no model that has both MLP layers and layers with experts")
    for kind in (MAMBA, ATTENTION):
        if kind not in types:
            raise ElasticError(f"format: llama.cpp runs no Nemotron-H without a layer of {kind}")
    for axis in _ONE_WIDTH:
        widths = sorted(set(member.widths(axis)))
        if len(widths) > 1:
            raise ElasticError(f"format: layers differ in {axis} ({', '.join(map(str, widths))}), and llama.cpp reads "
                               "one number for all")  # fmt: skip
    return "nemotron_h_moe" if MOE in types else "nemotron_h"


def describe(writer: GGUFWriter, model: Checkpoint) -> None:
    """Add the sizes of a member to a file."""
    from gguf import Keys

    parent, member = model.parent, model.subnet
    length, eps = model.config.get("max_position_embeddings", 131072), parent.norm_eps

    def each(kind: str, size: str) -> list[int]:
        return [x.widths.get(size, parent.sizes[size]) if x.type == kind else 0 for x in member.layers]

    def one(axis: str) -> int:
        return next(iter(member.widths(axis)), parent.sizes[axis])

    writer.add_block_count(len(member.layers))
    writer.add_context_length(length)
    writer.add_embedding_length(member.hidden)
    writer.add_vocab_size(parent.sizes["vocab"])
    writer.add_layer_norm_rms_eps(eps)
    writer.add_layer_norm_eps(eps)  # llama.cpp requires it, and does not use it

    writer.add_head_count(one(ATTENTION_HEADS))
    writer.add_head_count_kv(each(ATTENTION, KV_HEADS))
    head_dim = parent.sizes[HEAD_DIM]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)  # required as well; these attention layers have no positions

    writer.add_ssm_conv_kernel(parent.sizes["conv_kernel"])
    writer.add_ssm_state_size(parent.sizes["state"])
    writer.add_ssm_group_count(parent.sizes[GROUPS])
    writer.add_ssm_inner_size(one(MAMBA_HEADS) * one(MAMBA_HEAD_DIM))
    writer.add_ssm_time_step_rank(one(MAMBA_HEADS))

    if not any(layer.type == MOE for layer in member.layers):
        writer.add_feed_forward_length(each(MLP, FFN))
        return
    widths = each(MOE, EXPERT_FFN)
    writer.add_feed_forward_length(widths)
    key, different = Keys.LLM.EXPERT_FEED_FORWARD_LENGTH.format(arch=writer.arch), set(widths) - {0}
    if len(different) == 1:
        writer.add_uint32(key, different.pop())
    else:
        writer.add_array(key, widths)
    writer.add_expert_shared_feed_forward_length(one(SHARED_FFN))
    writer.add_expert_count(one(EXPERTS))
    writer.add_expert_used_count(parent.sizes[TOP_K])
    writer.add_expert_shared_count(1)
    writer.add_expert_group_count(1)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(parent.sizes[SCALING])
    if LATENT in parent.sizes:
        writer.add_moe_latent_size(one(LATENT))
