# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's dense SFT recipes that `apply_elastic` accepts, each a file for `nemo-elastic rehearse`."""

from __future__ import annotations

from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.plan import preset
from tests.workers import ROOT

#: the file of each is its name
NAMES = ("nano_4b", "nano_4b_32k", "nano_9b", "h_4b", "h_8b", "h_47b", "h_56b")


def shares(shape: str) -> dict[str, Any]:
    """The 8B's block for another parent of its family: the same shares of each axis, and three members."""
    eight, parent = ElasticConfig.load(ROOT / "conf" / "elastic_8b.yaml").to_dict(), preset(shape)
    axes = {
        "hidden": {"choices": [parent.hidden * n // 8 for n in (8, 7, 6)]},
        "ffn": {"choices": [parent.ffn * n // 8 for n in (8, 6, 5)], "stripes": 8},
        "mamba_heads": {"choices": [8 * (parent.mamba_heads * n // 64) for n in (8, 7, 6, 5)]},
        "attention_heads": {"choices": [parent.attention_heads * n // 4 for n in (4, 3)]},
        DEPTH: {"choices": [parent.num_layers - n for n in (0, 4, 8)]},
    }
    budgets = [{"name": "whole"}, {"name": "large", "ratio": 0.8}, {"name": "half", "ratio": 0.6}]
    return eight | {"axes": axes, "budgets": budgets, "sampling": {"whole": 1, "large": 1, "half": 1}}
