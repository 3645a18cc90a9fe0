# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent ⇄ NeMo's SSMConfig, or Megatron-Bridge's HybridModelProvider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import HIDDEN, KINDS, OWN
from nemo_elastic.errors import bad

#: size of Parent -> field of SSMConfig
FIELDS = {
    "pattern": "hybrid_override_pattern",
    HIDDEN: "hidden_size",
    **{size: name for kind in OWN for size, name in KINDS[kind].megatron.items()},
    "tied": "share_embeddings_and_output_weights",
    "norm_eps": "layernorm_epsilon",
}


#: what makes a Nemotron-H of an SSMConfig: field -> the only value that we can cut
FIXED = {
    "gated_linear_unit": False,
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "normalization": "RMSNorm",
    "layernorm_zero_centered_gamma": False,
    "qk_layernorm": False,
    "position_embedding_type": "none",
    "softmax_scale": None,
    "window_size": None,
    "multi_latent_attention": False,
    "num_moe_experts": None,
    "mtp_num_layers": None,
}
#: of these, what Megatron-Bridge says 0 for
COUNTS = ("num_moe_experts", "mtp_num_layers")
#: names of the squared ReLU: megatron-core's own, and NeMo's in `NemotronHConfigBase`, which has no name
_ACTIVATIONS = ("squared_relu", "relu2", "<lambda>")


def check_kinds(pattern: str, where: str) -> None:
    """Raise for layers that no config here describes.

    Experts are among them: NeMo's hybrids, on megatron-core 0.15, have none.
    """
    known = [KINDS[name].symbol for name in OWN]
    if set(pattern) - set(known):
        told = ", ".join(known)
        raise bad(where, pattern, f"layers of {told} alone: experts are cut from and into Hugging Face folders")


def check_config(get: Callable[[str, Any], Any], where: str) -> None:
    """Raise where a config describes another architecture than Nemotron-H's.

    Args:
        get: (field, default) -> its value.
        where: what the config is, for errors.
    """
    for name, wanted in FIXED.items():
        value = get(name, wanted)
        if value != wanted and not (name in COUNTS and value == 0):
            raise bad(f"{where}.{name}", value, f"Nemotron-H has {wanted!r}")
    activation = get("activation_func", None)
    told = activation.get("_target_") if isinstance(activation, Mapping) else getattr(activation, "__qualname__", None)
    if isinstance(told, str) and not told.endswith(_ACTIVATIONS):
        raise bad(f"{where}.activation_func", told, "Nemotron-H has the squared ReLU")


def layer_pattern(config: Any) -> str | None:
    """A symbol per layer, as a config has it under one of two names, without marks of pipeline stages."""
    pattern = getattr(config, "hybrid_override_pattern", None) or getattr(config, "hybrid_layer_pattern", None)
    return pattern.replace("|", "") if isinstance(pattern, str) else None


def parent_of(config: Any, vocab: int, where: str = "model.config") -> Parent:
    """Shape of the model that an SSMConfig describes.

    Args:
        config: NeMo's SSMConfig or a subclass, or Bridge's HybridModelProvider.
        vocab: rows of the embedding, padding included.
        where: the config, for errors.

    Raises:
        ElasticError: the config is no Nemotron-H (no layer pattern, gated or biased MLP, positions, another norm), or
            one with experts.
    """
    pattern = layer_pattern(config)
    if not pattern:
        raise bad(where, type(config).__name__, "a Nemotron-H config with hybrid_override_pattern")
    check_kinds(pattern, f"{where}.{FIELDS['pattern']}")
    check_config(lambda name, default: getattr(config, name, default), where)
    values = {ours: getattr(config, theirs) for ours, theirs in FIELDS.items() if ours != "pattern"}
    values["pattern"] = pattern
    values["norm_eps"] = float(values["norm_eps"])
    if values["mamba_heads"] is None:
        values["mamba_heads"] = 2 * config.hidden_size // config.mamba_head_dim
    if values["attention_head_dim"] is None:
        values["attention_head_dim"] = config.hidden_size // config.num_attention_heads
    if values["kv_heads"] is None:
        values["kv_heads"] = values["attention_heads"]
    return Parent(vocab=vocab, **values)


def stock_sizes(parent: Parent, member: Subnet) -> dict[str, Any]:
    """SSMConfig fields of a member with one width per axis.

    Raises:
        ElasticError: the member has experts, or widths that differ between layers: no stock config can say that.
    """
    check_kinds(parent.pattern, "member")
    if not member.is_uniform:
        raise bad("member", member.pattern, "widths that are the same in all layers of a type; NeMo has no other")
    # an axis of which no layer is left has the parent's width
    axes = [axis for kind in OWN for axis in KINDS[kind].widths]
    widths = {axis: next(iter(member.widths(axis)), parent.size(axis)) for axis in axes}
    sizes = {size: getattr(parent, size) for size in FIELDS} | widths
    sizes |= {"pattern": member.pattern, HIDDEN: member.hidden}
    told = {name: sizes[size] for size, name in FIELDS.items()}
    return told | {"num_layers": len(member.layers), "vocab_size": parent.vocab}
