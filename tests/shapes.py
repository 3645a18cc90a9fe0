# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes that several tests use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.plan import preset

PARENT = Parent(
    pattern="M-M*-",
    hidden=16,
    vocab=32,
    ffn=16,
    mamba_heads=6,
    mamba_head_dim=4,
    mamba_groups=2,
    state=4,
    attention_heads=4,
    kv_heads=2,
    attention_head_dim=4,
    ffn_stripes=4,
)
#: whose members may keep some of the key-value heads alone
GROUPS = replace(PARENT, attention_heads=8, kv_heads=4, kv_heads_stripes=2)
#: with experts, in a latent width and without; a chain of choices fits the stripes
LATENT = replace(
    PARENT,
    pattern="MEM*E",
    ffn=1,
    ffn_stripes=1,
    experts=8,
    expert_ffn=12,
    shared_ffn=20,
    latent=10,
    top_k=2,
    routed_scaling=2.5,
    experts_stripes=2,
    expert_ffn_stripes=2,
    shared_ffn_stripes=4,
)
MOE = replace(LATENT, sizes={size: n for size, n in LATENT.sizes.items() if size != "latent"})

#: whose members may send a token to fewer experts
TOP_K = replace(MOE, top_k=3, top_k_stripes=1)


def having(axis: str) -> Parent:
    """One of them that has an axis."""
    return next(parent for parent in (PARENT, GROUPS, LATENT, TOP_K) if axis in parent.axes)


#: losses by the words of tests and tables -> `elastic.distill`
LOSSES: dict[str, dict[str, Any]] = {
    "frozen": {},
    "frozen_ce": {"terms": {"kl": 1, "ce": 0.5}},
    "ce": {"teacher": "none"},
    "trainable": {"teacher": "self"},
}
#: Nemotron-3 Nano 30B-A3B
NANO_30B = preset("nemotron-3-nano-30b-a3b")
#: tests/plan/test_presets.py holds these against NeMo's classes, and that against Megatron-Bridge's recipe
NANO_12B, NANO_9B = (replace(preset(f"nemotron-nano-{size}-v2"), ffn_stripes=8) for size in ("12b", "9b"))


def short_family(vocab: int) -> Family:
    """Two members of a parent of four layers, with a choice on nearly every axis."""
    shape = replace(PARENT, vocab=vocab, pattern="-M-*")
    members = {"big": shape.full, "small": shape.uniform(keep=(0, 1, 3), hidden=8, ffn=4, mamba_heads=2)}
    axes = {
        "hidden": AxisConfig((16, 12, 8)),
        "ffn": AxisConfig((16, 8, 4), per_layer=True),
        "mamba_heads": AxisConfig((6, 4, 2)),
        "mamba_head_dim": AxisConfig((4,)),
        "attention_heads": AxisConfig((4, 2)),
        "depth": AxisConfig((4, 3)),
    }
    return Family.of(shape, members, axes=axes, drop_order=(2, 1, 0, 3))
