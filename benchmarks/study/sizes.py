# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Axes and sizes of the studies' families."""

from __future__ import annotations

from typing import Any

from nemo_elastic.core.family import Parent

#: choices of every axis; the budgets are a study's own
AXES: dict[str, Any] = {
    "hidden": [256, 240, 224, 208, 192, 176, 160, 144, 128],
    "ffn": {"choices": [1280, 1120, 960, 800, 640, 480, 320], "stripes": 8},
    "mamba_heads": [16, 12, 8],
    "mamba_head_dim": [32, 28, 24, 20, 16],
    "attention_heads": [8, 6, 4],
    "depth": [10, 9, 8, 7, 6, 5],
}
#: of the parent that reads far
CONTEXT_AXES: dict[str, Any] = {
    "hidden": [128, 120, 112, 104, 96, 88, 80],
    "ffn": {"choices": [256, 224, 192, 160, 128], "stripes": 8},
    "mamba_heads": [8, 4],
    "mamba_head_dim": [32, 28, 24, 20, 16],
    "attention_heads": [8, 6, 4],
    "depth": [5, 4],
}
#: of the tiny parent that answers questions about its text
RECALL_AXES: dict[str, Any] = {
    "hidden": [64, 56, 48, 40],
    "ffn": {"choices": [128, 96, 64], "stripes": 8},
    "mamba_heads": [8, 4],
    "mamba_head_dim": [16, 12, 8],
    "depth": [5],
}
#: the parent with experts: 4.2M parameters, of which a token meets 2.4M
EXPERTS = Parent(
    "MEM*EMEM*E", 192, 1024, mamba_heads=16, mamba_head_dim=16, mamba_groups=4, state=16, attention_heads=4,
    kv_heads=2, attention_head_dim=32,
    experts=8, expert_ffn=192, shared_ffn=384, top_k=2, routed_scaling=2.5,
)  # fmt: skip
EXPERTS_AXES: dict[str, Any] = {
    "hidden": [192, 176, 160, 144, 128],
    "mamba_heads": [16, 12, 8],
    "mamba_head_dim": [16, 14, 12],
    "attention_heads": [4, 2],
    "experts": {"choices": [8, 6, 4], "stripes": 2},
    "expert_ffn": {"choices": [192, 160, 128, 96], "stripes": 8},
    "shared_ffn": {"choices": [384, 320, 256, 192], "stripes": 8},
    "depth": [10, 9, 8],
}
#: its members: those of the tiny recipe with experts
EXPERTS_SIZES = {"66": 0.66, "45": 0.45}
#: members of the three-size families, and of the five-size one: name -> share of the parent's parameters
THREE = {"72": 0.72, "50": 0.50}
FIVE = {"85": 0.85, "72": 0.72, "60": 0.60, "50": 0.50}
