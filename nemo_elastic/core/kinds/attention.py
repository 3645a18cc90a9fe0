# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Attention: grouped queries, causal, without positions."""

from __future__ import annotations

from typing import Any

from nemo_elastic.core.kinds.record import HF_LAYER, MEGATRON_LAYER, Axis, Kind, Row, Sizes

ATTENTION = "attention"
ATTENTION_HEADS = "attention_heads"

_HIDDEN = ("hidden",)
QUERY, KEY_VALUE = (ATTENTION_HEADS, "attention_head_dim"), ("kv_heads", "attention_head_dim")
_H, _M = HF_LAYER, MEGATRON_LAYER
_QKV, _CORE, _PROJ = (_M + "self_attention." + m for m in ("linear_qkv", "core_attention", "linear_proj"))


def flops(sizes: Sizes, length: int) -> Any:
    """Scores and sums over half of the context on average."""
    return 4 * sizes[ATTENTION_HEADS] * sizes["attention_head_dim"] * length / 2


def cache(sizes: Sizes, batch: int, length: int) -> dict[str, Any]:
    """Keys and values of every token."""
    return {"kv": 2 * batch * length * sizes["kv_heads"] * sizes["attention_head_dim"]}


KIND = Kind(
    symbol="*",
    name=ATTENTION,
    words="attention",
    axes=(
        Axis(ATTENTION_HEADS, "heads", "attention heads", "kv_heads", "key-value heads", grouped=True, per_layer=True),
    ),
    rigid=("kv_heads", "attention_head_dim"),
    rows=(
        Row("attention.pre_norm", ATTENTION, _H + "norm.weight", _QKV + ".layer_norm_weight", ((_HIDDEN,),)),
        Row("attention.q", ATTENTION, _H + "mixer.q_proj.weight", _QKV + ".weight", ((QUERY,), (_HIDDEN,)), 0,
            "kv_heads", extra=(_QKV,)),
        Row("attention.k", ATTENTION, _H + "mixer.k_proj.weight", _QKV + ".weight", ((KEY_VALUE,), (_HIDDEN,)), 0,
            "kv_heads"),
        Row("attention.v", ATTENTION, _H + "mixer.v_proj.weight", _QKV + ".weight", ((KEY_VALUE,), (_HIDDEN,)), 0,
            "kv_heads"),
        Row("attention.out", ATTENTION, _H + "mixer.o_proj.weight", _PROJ + ".weight", ((_HIDDEN,), (QUERY,)), 1,
            extra=(_CORE, _PROJ)),
    ),
    site="attention",
    shape=QUERY,
    hf={
        ATTENTION_HEADS: ("num_attention_heads",),
        "kv_heads": ("num_key_value_heads",),
        "attention_head_dim": ("head_dim", "attention_head_dim"),
    },
    hf_types=("attention", "full_attention"),
    megatron={
        ATTENTION_HEADS: "num_attention_heads",
        "kv_heads": "num_query_groups",
        "attention_head_dim": "kv_channels",
    },
    flops=flops,
    cache=cache,
)  # fmt: skip
