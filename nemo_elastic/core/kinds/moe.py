# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: a router picks top-k experts for each token; the shared expert gets every token.

Experts and the shared expert are squared-ReLU MLPs without gate and bias. If the parent has a latent width, experts
read and write that: one projection leads from the residual stream into it, another one back.
"""

from __future__ import annotations

from dataclasses import replace

from nemo_elastic.core.kinds.record import GGUF_LAYER, HF_LAYER, MEGATRON_LAYER, Axis, Kind, Part, Row

MOE = "moe"
EXPERTS, EXPERT_FFN, SHARED_FFN, LATENT = "experts", "expert_ffn", "shared_ffn", "latent"
#: number of experts per token, and the factor on the sum of their outputs
TOP_K, SCALING = "top_k", "routed_scaling"
#: 1 where members may send a token to fewer experts; parents whose families keep their top-k do not have this size
TOP_K_STRIPES = "top_k_stripes"

_HIDDEN, _EXPERTS, _EXPERT_FFN, _SHARED_FFN, _LATENT = (
    (term,) for term in ("hidden", EXPERTS, EXPERT_FFN, SHARED_FFN, LATENT)
)
_H, _M, _G = HF_LAYER, MEGATRON_LAYER, GGUF_LAYER
_GATE, _SHARED = "mixer.gate.", _M + "mlp.shared_experts."


def _rows(expert_in: Part, *latent: Row) -> tuple[Row, ...]:
    """Rows of a parent whose experts have `expert_in` channels as input and output; `latent`: its projections."""

    def expert(name: str, hf: str, megatron: str, dims: tuple[tuple[Part, ...], ...], parallel: int) -> Row:
        each = _M + "mlp.experts.local_experts.{e}." + megatron + ".weight"
        stacked = _M + "mlp.experts.experts." + megatron
        return Row(name, MOE, _H + "mixer.experts.{e}." + hf + ".weight", each, dims, parallel, each=EXPERTS,
                   used=TOP_K, stacked=stacked + ".weight", extra=(stacked,),
                   quantized=True, gguf=_G + f"ffn_{name.partition('.')[2]}_exps.weight")  # fmt: skip

    return (
        Row("moe.pre_norm", MOE, _H + "norm.weight", _M + "pre_mlp_layernorm.weight", ((_HIDDEN,),),
            extra=(_M + "pre_mlp_layernorm",), gguf=_G + "attn_norm.weight"),
        Row("moe.gate", MOE, _H + _GATE + "weight", _M + "mlp.router.weight", ((_EXPERTS,), (_HIDDEN,)),
            gguf=_G + "ffn_gate_inp.weight"),
        Row("moe.gate_bias", MOE, _H + _GATE + "e_score_correction_bias", _M + "mlp.router.expert_bias",
            ((_EXPERTS,),), exact=True, random="bias",  # rounding it could change which experts are chosen
            gguf=_G + "exp_probs_b.bias"),
        *latent,
        expert("moe.up", "up_proj", "linear_fc1", ((_EXPERT_FFN,), (expert_in,)), 0),
        expert("moe.down", "down_proj", "linear_fc2", ((expert_in,), (_EXPERT_FFN,)), 1),
        Row("moe.shared_up", MOE, _H + "mixer.shared_experts.up_proj.weight",
            _SHARED + "linear_fc1.weight", ((_SHARED_FFN,), (_HIDDEN,)), 0, extra=(_SHARED + "linear_fc1",),
            quantized=True, gguf=_G + "ffn_up_shexp.weight"),
        Row("moe.shared_down", MOE, _H + "mixer.shared_experts.down_proj.weight",
            _SHARED + "linear_fc2.weight", ((_HIDDEN,), (_SHARED_FFN,)), 1, extra=(_SHARED + "linear_fc2",),
            quantized=True, gguf=_G + "ffn_down_shexp.weight"),
    )  # fmt: skip


_HF = {
    EXPERTS: ("n_routed_experts", "num_local_experts"),
    EXPERT_FFN: ("moe_intermediate_size",),
    SHARED_FFN: ("moe_shared_expert_intermediate_size",),
    TOP_K: ("num_experts_per_tok",),
    SCALING: ("routed_scaling_factor",),
}
_MEGATRON = {
    EXPERTS: "num_moe_experts",
    EXPERT_FFN: "moe_ffn_hidden_size",
    SHARED_FFN: "moe_shared_expert_intermediate_size",
    TOP_K: "moe_router_topk",
    SCALING: "moe_router_topk_scaling_factor",
}
_SITES: dict[str, Part] = {"routed": _EXPERTS, "expert_ffn": (EXPERTS, EXPERT_FFN), "shared_ffn": _SHARED_FFN}
#: experts have one stripe by default, as a rank has whole experts: a member's neurons are then a view
_AXES = (
    Axis(EXPERTS, "experts", "experts", "experts_stripes", "stripes", per_layer=True, stripes=8, least=TOP_K,
         shared_by=None),
    Axis(EXPERT_FFN, "ffn", "expert FFN width", "expert_ffn_stripes", "stripes", per_layer=True, stripes=1,
         each=EXPERTS, shared_by="expert tensor"),
    Axis(TOP_K, TOP_K, "experts per token", TOP_K_STRIPES, "stripes", per_layer=True, stripes=1, shared_by=None),
    Axis(SHARED_FFN, "shared_ffn", "shared expert FFN width", "shared_ffn_stripes", "stripes", stripes=8),
)  # fmt: skip
_STRIPES = tuple(axis.blocks for axis in _AXES if axis.blocks is not None)

#: for parents without a latent width
_PLAIN = Kind(
    symbol="E",
    name=MOE,
    words="experts",
    axes=_AXES,
    rigid=(SCALING, *_STRIPES),
    rows=_rows(_HIDDEN),
    site="experts",
    shape=_EXPERTS,
    more_sites=_SITES,
    use_counts={"experts": "routed"},
    hf=_HF,
    hf_types=("moe",),
    hf_fixed={"n_shared_experts": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True},
    megatron=_MEGATRON,
    defaults={size: 1 for size in _STRIPES if size != TOP_K_STRIPES},
    reals=(SCALING,),
)


def _keeping_top_k(kind: Kind, **without: Kind) -> Kind:
    """The record of parents whose families keep their top-k."""
    axes = tuple(axis for axis in kind.axes if axis.name != TOP_K)
    return replace(kind, axes=axes, rigid=(TOP_K, *(n for n in kind.rigid if n != TOP_K_STRIPES)), without=without)


PLAIN = _keeping_top_k(_PLAIN)
_LATENT_KIND = replace(
    _PLAIN,
    axes=(*_AXES, Axis(LATENT, "latent", "latent width")),
    rows=_rows(
        _LATENT,
        Row("moe.latent_in", MOE, _H + "mixer.fc1_latent_proj.weight", _M + "mlp.fc1_latent_proj.weight",
            ((_LATENT,), (_HIDDEN,)), extra=(_M + "mlp.fc1_latent_proj",), gguf=_G + "ffn_latent_down.weight"),
        Row("moe.latent_out", MOE, _H + "mixer.fc2_latent_proj.weight", _M + "mlp.fc2_latent_proj.weight",
            ((_HIDDEN,), (_LATENT,)), extra=(_M + "mlp.fc2_latent_proj",), gguf=_G + "ffn_latent_up.weight"),
    ),
    more_sites=_SITES | {"latent": _LATENT},
    hf=_HF | {LATENT: ("moe_latent_size",)},
    megatron=_MEGATRON | {LATENT: "moe_latent_size"},
)  # fmt: skip

KIND = replace(
    _LATENT_KIND,
    without={
        LATENT: replace(_PLAIN, without={TOP_K_STRIPES: PLAIN}),
        TOP_K_STRIPES: _keeping_top_k(_LATENT_KIND, latent=PLAIN),
    },
)
