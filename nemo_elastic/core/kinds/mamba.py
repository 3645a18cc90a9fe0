# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba-2: [z | x | B | C | dt] from one projection, a causal convolution, a scan, a gated norm.

Heads are stored by group, and the heads of a group share B and C. Published members may instead keep the first heads
of each of `mamba_shards` equal parts: Megatron masked the heads of each tensor-parallel rank separately.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_elastic.core.kinds.record import GGUF_LAYER, HF_LAYER, MEGATRON_LAYER, Axis, Kind, Row, Sizes

MAMBA = "mamba"
MAMBA_HEADS, MAMBA_HEAD_DIM = "mamba_heads", "mamba_head_dim"
GROUPS = "mamba_groups"
#: number of blocks of the heads where it differs from the groups; most parents do not have this size
SHARDS = "mamba_shards"

_HIDDEN, INNER, _PER_HEAD = ("hidden",), (MAMBA_HEADS, MAMBA_HEAD_DIM), (MAMBA_HEADS,)
#: rows of B and of C: one per group and state channel
SHARED = (GROUPS, "state")
_H, _M, _G = HF_LAYER, MEGATRON_LAYER, GGUF_LAYER
_IN, _OUT, _CONV = _M + "mixer.in_proj", _M + "mixer.out_proj", _M + "mixer.conv1d"


def flops(sizes: Sizes, length: int) -> Any:
    """The recurrence: every channel updates and reads its state of `state` numbers."""
    return 6 * sizes[MAMBA_HEADS] * sizes[MAMBA_HEAD_DIM] * sizes["state"]


def cache(sizes: Sizes, batch: int, length: int) -> dict[str, Any]:
    """Last inputs of the convolution, and the state of the scan."""
    inner = sizes[MAMBA_HEADS] * sizes[MAMBA_HEAD_DIM]
    channels = inner + 2 * sizes[GROUPS] * sizes["state"]
    return {"conv": batch * channels * (sizes["conv_kernel"] - 1), "ssm": batch * inner * sizes["state"]}


PLAIN = Kind(
    symbol="M",
    name=MAMBA,
    words="Mamba-2",
    axes=(
        Axis(MAMBA_HEADS, "heads", "Mamba heads", GROUPS, "Mamba groups", grouped=True, per_layer=True),
        Axis(MAMBA_HEAD_DIM, "head_dim", "Mamba head channels"),
    ),
    rigid=(GROUPS, "state", "conv_kernel"),
    rows=(
        Row("mamba.pre_norm", MAMBA, _H + "norm.weight", _IN + ".layer_norm_weight", ((_HIDDEN,),),
            gguf=_G + "attn_norm.weight"),
        Row("mamba.in_proj", MAMBA, _H + "mixer.in_proj.weight", _IN + ".weight",
            ((INNER, INNER, SHARED, SHARED, _PER_HEAD), (_HIDDEN,)), 0, parts=("z", "x", "B", "C", "dt"),
            extra=(_IN,), quantized=True, gguf=_G + "ssm_in.weight"),
        Row("mamba.conv_weight", MAMBA, _H + "mixer.conv1d.weight", _CONV + ".weight",
            ((INNER, SHARED, SHARED), (("one",),), (("conv_kernel",),)), 0, parts=("x", "B", "C"),
            random="taps", gguf=_G + "ssm_conv1d.weight"),
        Row("mamba.conv_bias", MAMBA, _H + "mixer.conv1d.bias", _CONV + ".bias", ((INNER, SHARED, SHARED),), 0,
            parts=("x", "B", "C"), random="bias", gguf=_G + "ssm_conv1d.bias"),
        Row("mamba.a_log", MAMBA, _H + "mixer.A_log", _M + "mixer.A_log", ((_PER_HEAD,),), 0, random="decay",
            gguf=_G + "ssm_a"),
        Row("mamba.d", MAMBA, _H + "mixer.D", _M + "mixer.D", ((_PER_HEAD,),), 0, random="skip", gguf=_G + "ssm_d"),
        Row("mamba.dt_bias", MAMBA, _H + "mixer.dt_bias", _M + "mixer.dt_bias", ((_PER_HEAD,),), 0, random="step",
            gguf=_G + "ssm_dt.bias"),
        Row("mamba.norm", MAMBA, _H + "mixer.norm.weight", _M + "mixer.norm.weight", ((INNER,),), 0,
            gguf=_G + "ssm_norm.weight"),
        Row("mamba.out_proj", MAMBA, _H + "mixer.out_proj.weight", _OUT + ".weight", ((_HIDDEN,), (INNER,)), 1,
            extra=(_OUT,), quantized=True, gguf=_G + "ssm_out.weight"),
    ),
    site="mamba_x",
    shape=INNER,
    hf={
        MAMBA_HEADS: ("mamba_num_heads",),
        MAMBA_HEAD_DIM: ("mamba_head_dim",),
        GROUPS: ("n_groups", "mamba_n_groups"),
        "state": ("ssm_state_size",),
        "conv_kernel": ("conv_kernel", "mamba_d_conv"),
    },
    hf_types=("mamba", "linear_attention"),
    megatron={
        MAMBA_HEADS: "mamba_num_heads",
        MAMBA_HEAD_DIM: "mamba_head_dim",
        GROUPS: "mamba_num_groups",
        "state": "mamba_state_dim",
    },
    flops=flops,
    cache=cache,
    always=True,
    cp_axis=MAMBA_HEADS,
    defaults=dict.fromkeys((MAMBA_HEADS, MAMBA_HEAD_DIM, GROUPS, "state"), 1) | {"conv_kernel": 4},
)  # fmt: skip

_HEADS, _CHANNELS = PLAIN.axes
KIND = replace(
    PLAIN,
    axes=(replace(_HEADS, blocks=SHARDS, block_words="parts of the Mamba heads", multiple_of=GROUPS), _CHANNELS),
    rigid=(*PLAIN.rigid, SHARDS),
    without={SHARDS: PLAIN},
)
