# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent ⇄ NeMo's SSMConfig, or Megatron-Bridge's HybridModelProvider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nemo_elastic.core.family import Parent, Subnet, positive
from nemo_elastic.core.kinds.moe import EXPERT_FFN, LATENT, MOE, SCALING
from nemo_elastic.core.kinds.registry import HIDDEN, KINDS
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import bad

#: size of Parent -> field of SSMConfig
FIELDS = {
    "pattern": "hybrid_override_pattern",
    HIDDEN: "hidden_size",
    **{size: name for kind in KINDS.values() if kind.always for size, name in kind.megatron.items()},
    "tied": "share_embeddings_and_output_weights",
    "norm_eps": "layernorm_epsilon",
}
#: size that a config may omit -> Megatron's default
_DERIVED: dict[str, Callable[[Any], Any]] = {
    "mamba_heads": lambda config: 2 * config.hidden_size // config.mamba_head_dim,
    "attention_head_dim": lambda config: config.hidden_size // config.num_attention_heads,
    "kv_heads": lambda config: config.num_attention_heads,
    EXPERT_FFN: lambda config: config.ffn_hidden_size,
    SCALING: lambda config: 1.0,
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
    "mtp_num_layers": None,
}
#: the same of today's megatron-core, whose hybrids may have layers that predict more than one token
STORED = {name: value for name, value in FIXED.items() if name != "mtp_num_layers"}
#: the same of a model without experts, and of one with them
DENSE = {"num_moe_experts": None}
WITH_EXPERTS = {
    "moe_router_score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_shared_expert_gate": False,
    "moe_apply_probs_on_input": False,
    "moe_expert_capacity_factor": None,
}
#: of these, what Megatron-Bridge also says for nothing
NOTHING = {
    "num_moe_experts": (0,), "mtp_num_layers": (0,), "moe_router_num_groups": (0, 1), "moe_router_group_topk": (0, 1),
}  # fmt: skip
#: ways to balance experts that choose others than the scores and a bias do
_OTHER_ROUTING = ("sinkhorn", "quantile_balancing")
#: names of the squared ReLU: megatron-core's, and that of NeMo's lambda in `NemotronHConfigBase`
_ACTIVATIONS = ("squared_relu", "relu2", "<lambda>")


def has_experts(pattern: str) -> bool:
    """Whether layers are a mixture of experts."""
    return KINDS[MOE].symbol in pattern


def check_kinds(pattern: str, where: str, experts: bool) -> None:
    """Refuse layers that no config here describes; megatron-core has experts in hybrids since 0.19."""
    known = [kind.symbol for kind in KINDS.values() if kind.always]
    others = set(pattern) - set(known)
    if others == {KINDS[MOE].symbol} and not experts:
        why = "NeMo 2.7, on megatron-core 0.15, has no experts in hybrids"
        raise bad(where, pattern, f"only layers of {', '.join(known)}: {why}")
    if others - {KINDS[MOE].symbol}:
        raise bad(where, pattern, f"only layers of {', '.join((*known, KINDS[MOE].symbol))}")


def check_config(
    get: Callable[[str, Any], Any], where: str, experts: bool = False, fixed: Mapping[str, Any] = FIXED
) -> None:
    """Refuse a config of another architecture than Nemotron-H's; `get` takes a field and its default."""
    for name, wanted in {**fixed, **(WITH_EXPERTS if experts else DENSE)}.items():
        value = get(name, wanted)
        if value != wanted and value not in NOTHING.get(name, ()):
            raise bad(f"{where}.{name}", value, f"Nemotron-H has {wanted!r}")
    if experts and get("moe_router_topk", None) == 1:
        raise bad(f"{where}.moe_router_topk", 1, "2 or more: megatron-core does not scale the weight of one expert")
    balancing = get("moe_router_load_balancing_type", None) if experts else None
    if any(way in _OTHER_ROUTING for way in (balancing if isinstance(balancing, (list, tuple)) else [balancing])):
        raise bad(
            f"{where}.moe_router_load_balancing_type", balancing, "none or a loss; other methods choose other experts"
        )
    activation = get("activation_func", None)
    name = activation.get("_target_") if isinstance(activation, Mapping) else getattr(activation, "__qualname__", None)
    if isinstance(name, str) and not name.endswith(_ACTIVATIONS):
        raise bad(f"{where}.activation_func", name, "Nemotron-H has the squared ReLU")


def layer_pattern(config: Any) -> str | None:
    """A symbol per layer, as a config has it under one of two names, without marks of pipeline stages."""
    pattern = getattr(config, "hybrid_override_pattern", None) or getattr(config, "hybrid_layer_pattern", None)
    return pattern.replace("|", "").partition("/")[0] if isinstance(pattern, str) else None


def prediction_of(get: Callable[[str], Any]) -> Prediction | None:
    """The MTP layers of a config of Bridge or megatron-core, or None."""
    pattern = get("mtp_hybrid_override_pattern") or str(get("hybrid_layer_pattern") or "").partition("/")[2]
    steps, layers = get("mtp_num_layers"), str(pattern).partition("/")[0]
    if not steps or not layers:
        return None
    return Prediction(layers, 1 if get("mtp_use_repeated_layer") else positive("mtp_num_layers", steps))


def parent_of(config: Any, vocab: int, where: str = "model.config") -> Parent:
    """Shape of the model that NeMo's SSMConfig or Bridge's HybridModelProvider describes; `vocab` includes padding.

    A config of another architecture is refused, and one of NeMo's with experts.
    """
    pattern = layer_pattern(config)
    if not pattern:
        raise bad(where, type(config).__name__, "a Nemotron-H config with hybrid_override_pattern")
    # what NeMo's config has not is the name that megatron-core has had since it has experts in hybrids
    recent = hasattr(config, "hybrid_layer_pattern")
    check_kinds(pattern, f"{where}.{FIELDS['pattern']}", experts=recent)
    experts = has_experts(pattern)
    check_config(lambda name, default: getattr(config, name, default), where, experts, STORED if recent else FIXED)
    names = {**FIELDS, **(KINDS[MOE].megatron if experts else {})}
    absent = {size for kind in KINDS.values() if experts and kind.symbol not in pattern for size in kind.sizes}
    values: dict[str, Any] = {size: getattr(config, name, None) for size, name in names.items() if size not in absent}
    open_sizes = [size for size, value in values.items() if value is None and size in _DERIVED]
    values |= {size: _DERIVED[size](config) for size in open_sizes}
    if not values.get(LATENT):
        values.pop(LATENT, None)
    values |= {"vocab": vocab, "pattern": pattern, "norm_eps": float(config.layernorm_epsilon)}
    return Parent(**values)


def config_fields(parent: Parent) -> dict[str, Any]:
    """Fields of a config that describe a parent, but for its vocabulary."""
    sizes = parent.to_json()
    named = FIELDS | {size: name for kind in parent.kinds for size, name in kind.megatron.items()}
    return {name: sizes[size] for size, name in named.items()}


def stock_sizes(parent: Parent, member: Subnet, experts: bool = False) -> dict[str, Any]:
    """Fields of a stock config for a member, which needs one width per axis.

    With `experts` of today's megatron-core, as in `check_kinds`, which deprecates the other name of the pattern.
    """
    check_kinds(parent.pattern, "member", experts)
    if not member.is_uniform:
        raise bad("member", member.pattern, "one width in all layers of a type; NeMo has no other form")
    # an axis without a remaining layer has the parent's width
    kinds = [parent.kind(name) for name, kind in KINDS.items() if kind.always or kind.symbol in member.pattern]
    fields = FIELDS | {size: name for kind in kinds for size, name in kind.megatron.items()}
    sizes = parent.to_json() | {"pattern": member.pattern, HIDDEN: member.hidden}
    sizes |= {axis: widths[0] for kind in kinds for axis in kind.widths if (widths := member.widths(axis))}
    out = {name: sizes[size] for size, name in fields.items()}
    if experts:
        out["hybrid_layer_pattern"] = out.pop(FIELDS["pattern"])
    if has_experts(member.pattern):
        check_config(out.get, "member", experts=True)
        out |= {name: value for name, value in WITH_EXPERTS.items() if value}
    return out | {"num_layers": len(member.layers), "vocab_size": parent.vocab}
