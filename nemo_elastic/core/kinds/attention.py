# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Attention: grouped queries, causal, without positions.

Query heads are stored by key-value group. Where a block lists `kv_heads`, members may drop whole groups; the query
heads of the remaining groups are cut as usual.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_elastic.core.kinds.record import GGUF_LAYER, HF_LAYER, MEGATRON_LAYER, Axis, Kind, Row, Sizes

ATTENTION = "attention"
ATTENTION_HEADS, KV_HEADS, HEAD_DIM = "attention_heads", "kv_heads", "attention_head_dim"
#: number of stripes of the key-value heads; parents whose families keep all of them do not have this size
KV_STRIPES = "kv_heads_stripes"

_HIDDEN = ("hidden",)
QUERY, KEY_VALUE = (ATTENTION_HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM)
_H, _M, _G = HF_LAYER, MEGATRON_LAYER, GGUF_LAYER
_QKV, _CORE, _PROJ = (_M + "self_attention." + m for m in ("linear_qkv", "core_attention", "linear_proj"))


def flops(sizes: Sizes, length: int) -> Any:
    """Scores and weighted sums of values: a causal token attends to half of the context on average."""
    return 4 * sizes[ATTENTION_HEADS] * sizes[HEAD_DIM] * length / 2


def cache(sizes: Sizes, batch: int, length: int) -> dict[str, Any]:
    """Keys and values of all tokens."""
    return {"kv": 2 * batch * length * sizes[KV_HEADS] * sizes[HEAD_DIM]}


#: for families whose members keep all key-value heads
PLAIN = Kind(
    symbol="*",
    name=ATTENTION,
    words="attention",
    axes=(
        Axis(ATTENTION_HEADS, "heads", "attention heads", KV_HEADS, "key-value heads", grouped=True, per_layer=True),
    ),
    rigid=(KV_HEADS, HEAD_DIM),
    rows=(
        Row("attention.pre_norm", ATTENTION, _H + "norm.weight", _QKV + ".layer_norm_weight", ((_HIDDEN,),),
            gguf=_G + "attn_norm.weight"),
        Row("attention.q", ATTENTION, _H + "mixer.q_proj.weight", _QKV + ".weight", ((QUERY,), (_HIDDEN,)), 0,
            KV_HEADS, extra=(_QKV,), quantized=True, gguf=_G + "attn_q.weight"),
        Row("attention.k", ATTENTION, _H + "mixer.k_proj.weight", _QKV + ".weight", ((KEY_VALUE,), (_HIDDEN,)), 0,
            KV_HEADS, quantized=True, gguf=_G + "attn_k.weight"),
        Row("attention.v", ATTENTION, _H + "mixer.v_proj.weight", _QKV + ".weight", ((KEY_VALUE,), (_HIDDEN,)), 0,
            KV_HEADS, quantized=True, gguf=_G + "attn_v.weight"),
        Row("attention.out", ATTENTION, _H + "mixer.o_proj.weight", _PROJ + ".weight", ((_HIDDEN,), (QUERY,)), 1,
            extra=(_CORE, _PROJ), quantized=True, gguf=_G + "attn_output.weight"),
    ),
    site="attention",
    shape=QUERY,
    hf={
        ATTENTION_HEADS: ("num_attention_heads",),
        KV_HEADS: ("num_key_value_heads",),
        HEAD_DIM: ("head_dim", "attention_head_dim"),
    },
    hf_types=("attention", "full_attention"),
    megatron={
        ATTENTION_HEADS: "num_attention_heads",
        KV_HEADS: "num_query_groups",
        HEAD_DIM: "kv_channels",
    },
    flops=flops,
    cache=cache,
    always=True,
    attends=True,
    cp_axis=ATTENTION_HEADS,
    cp_splits_groups=True,
    defaults=dict.fromkeys((ATTENTION_HEADS, KV_HEADS, HEAD_DIM), 1),
)  # fmt: skip

KIND = replace(
    PLAIN,
    axes=(*PLAIN.axes, Axis(KV_HEADS, KV_HEADS, "key-value heads", KV_STRIPES, "stripes", per_layer=True, stripes=8)),
    rigid=(HEAD_DIM, KV_STRIPES),
    without={KV_STRIPES: PLAIN},
)
