# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""MLP: squared ReLU, no gate, no bias."""

from __future__ import annotations

from nemo_elastic.core.kinds.record import GGUF_LAYER, HF_LAYER, MEGATRON_LAYER, Axis, Kind, Row

MLP = "mlp"
FFN, STRIPES = "ffn", "ffn_stripes"

_HIDDEN, _FFN = ("hidden",), (FFN,)
_H, _M, _G = HF_LAYER, MEGATRON_LAYER, GGUF_LAYER
_UP, _DOWN = _M + "mlp.linear_fc1", _M + "mlp.linear_fc2"

KIND = Kind(
    symbol="-",
    name=MLP,
    words="MLP",
    axes=(Axis(FFN, "ffn", "FFN width", STRIPES, "stripes", per_layer=True, stripes=8),),
    rigid=(STRIPES,),
    rows=(
        Row("mlp.pre_norm", MLP, _H + "norm.weight", _UP + ".layer_norm_weight", ((_HIDDEN,),),
            gguf=_G + "attn_norm.weight"),
        Row("mlp.up", MLP, _H + "mixer.up_proj.weight", _UP + ".weight", ((_FFN,), (_HIDDEN,)), 0, extra=(_UP,),
            quantized=True, gguf=_G + "ffn_up.weight"),
        Row("mlp.down", MLP, _H + "mixer.down_proj.weight", _DOWN + ".weight", ((_HIDDEN,), (_FFN,)), 1,
            extra=(_DOWN,), quantized=True, gguf=_G + "ffn_down.weight"),
    ),
    site="ffn",
    shape=_FFN,
    sites={"first": "ffn_pre"},
    hf={FFN: ("intermediate_size",)},
    hf_types=("mlp",),
    megatron={FFN: "ffn_hidden_size"},
    always=True,
    defaults={FFN: 1, STRIPES: 1},
)  # fmt: skip
