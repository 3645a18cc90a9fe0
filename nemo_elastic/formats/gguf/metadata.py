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
from nemo_elastic.formats.tokenizer import find_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["architecture", "check", "describe", "why_not"]

#: axes that all layers of a kind share in llama.cpp, which reads one number for the model
_ONE_WIDTH = (MAMBA_HEADS, MAMBA_HEAD_DIM, ATTENTION_HEADS, KV_HEADS, EXPERTS, SHARED_FFN, LATENT)


def check(model: Checkpoint) -> None:
    """Raise for a model that llama.cpp cannot run from a GGUF file."""
    why = why_not(model)
    if why is not None:
        raise ElasticError(f"{model.folder}: {why}")


def why_not(model: Checkpoint) -> str | None:
    """Why llama.cpp cannot run a model from a GGUF file; None where it can."""
    types = {layer.type for layer in model.subnet.layers}
    if {MLP, MOE} <= types:
        return "has both MLP layers and layers with experts, which llama.cpp reads in no model"
    for kind in (MAMBA, ATTENTION):
        if kind not in types:
            return f"has no layer of {kind}, and llama.cpp runs no Nemotron-H without one"
    for axis in _ONE_WIDTH:
        widths = sorted(set(model.subnet.widths(axis)))
        if len(widths) > 1:
            each = ", ".join(map(str, widths))
            return f"has layers that differ in {axis} ({each}), and llama.cpp reads one number for all"
    if model.precision is not None:
        return f"is in {model.precision}, which GGUF cannot store as it is; cut the family that it was made of"
    return None if find_tokenizer(model.companions) else "has no tokenizer, and a GGUF file holds one"


def architecture(member: Subnet) -> str:
    """llama.cpp's name of the model."""
    return "nemotron_h_moe" if any(layer.type == MOE for layer in member.layers) else "nemotron_h"


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
    writer.add_feed_forward_length(each(MOE, EXPERT_FFN))
    by_layer = {EXPERT_FFN: Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, TOP_K: Keys.LLM.EXPERT_USED_COUNT}
    for size, template in by_layer.items():
        key, widths = template.format(arch=writer.arch), each(MOE, size)
        if len(different := set(widths) - {0}) == 1:
            writer.add_uint32(key, different.pop())
        else:
            writer.add_array(key, widths)
    writer.add_expert_shared_feed_forward_length(one(SHARED_FFN))
    writer.add_expert_count(one(EXPERTS))
    writer.add_expert_shared_count(1)
    writer.add_expert_group_count(1)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(parent.sizes[SCALING])
    if LATENT in parent.sizes:
        writer.add_moe_latent_size(one(LATENT))
