# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes that several tests use."""

from __future__ import annotations

from dataclasses import replace

from nemo_elastic.family import Parent

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
NANO_12B = Parent(
    pattern="M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-",
    hidden=5120,
    vocab=131072,
    ffn=20480,
    mamba_heads=128,
    mamba_head_dim=80,
    mamba_groups=8,
    state=128,
    attention_heads=40,
    kv_heads=8,
    attention_head_dim=128,
    ffn_stripes=8,
)
NANO_9B = replace(NANO_12B, pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-", hidden=4480, ffn=15680)
