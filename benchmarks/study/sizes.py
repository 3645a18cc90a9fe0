# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Axes and sizes of the studies' families."""

from __future__ import annotations

from typing import Any

#: choices of every axis; the budgets are a study's own
AXES: dict[str, Any] = {
    "hidden": [256, 240, 224, 208, 192, 176, 160, 144, 128],
    "ffn": {"choices": [1280, 1120, 960, 800, 640, 480, 320], "stripes": 8},
    "mamba_heads": [16, 12, 8],
    "mamba_head_dim": [32, 28, 24, 20, 16],
    "attention_heads": [8, 6, 4],
    "depth": [10, 9, 8, 7, 6, 5],
}
#: of the deep parent, whose layers may each have a width of their own
DEEP_AXES: dict[str, Any] = {
    "hidden": [160, 144, 128, 112, 96],
    "ffn": {"choices": [800, 640, 480, 320], "stripes": 8, "per_layer": True},
    "mamba_heads": {"choices": [16, 12, 8], "per_layer": True},
    "mamba_head_dim": [20, 16],
    "attention_heads": {"choices": [8, 6, 4], "per_layer": True},
    "depth": [24, 22, 20, 18],
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
#: members of the three-size families, and of the five-size one: name -> share of the parent's parameters
THREE = {"72": 0.72, "50": 0.50}
FIVE = {"85": 0.85, "72": 0.72, "60": 0.60, "50": 0.50}
