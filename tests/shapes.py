# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes that several tests use."""

from __future__ import annotations

from nemo_elastic.core.family import Parent
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
#: tests/plan/test_presets.py holds these against NeMo's classes
NANO_12B, NANO_9B = (preset(f"nemotron-nano-{size}-v2").with_stripes(8) for size in ("12b", "9b"))
