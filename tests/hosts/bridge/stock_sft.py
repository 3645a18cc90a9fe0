# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's dense SFT recipes that `apply_elastic` accepts, as families on packed conversations.

`STOCK_SFT=nano_9b nemo-elastic rehearse tests/hosts/bridge/stock_sft.py` rehearses one of them.
"""

from __future__ import annotations

import os
from pkgutil import resolve_name
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.hosts.bridge.curriculum import BridgeFamily
from nemo_elastic.plan import preset
from tests.workers import ROOT

#: name -> Bridge's recipe, the parent's shape, and the block in conf/; without one it has the 8B's shares
RECIPES = {
    "nano_4b": ("nemotron_3_nano_4b:nemotron_3_nano_4b_sft_config", "nemotron-3-nano-4b", "4b"),
    "nano_4b_32k": ("nemotron_3_nano_4b:nemotron_3_nano_4b_sft_32k_config", "nemotron-3-nano-4b", "4b"),
    "nano_9b": ("nemotron_nano_v2:nemotron_nano_9b_v2_sft_config", "nemotron-nano-9b-v2", "9b"),
    "h_4b": ("nemotronh:nemotronh_4b_sft_config", "nemotron-h-4b", None),
    "h_8b": ("nemotronh:nemotronh_8b_sft_config", "nemotron-h-8b", "8b"),
    "h_47b": ("nemotronh:nemotronh_47b_sft_config", "nemotron-h-47b", None),
    "h_56b": ("nemotronh:nemotronh_56b_sft_config", "nemotron-h-56b", None),
}


def family(name: str) -> BridgeFamily:
    """One of them, to be rehearsed."""
    recipe, shape, own = RECIPES[name]
    block = shares(shape) if own is None else ROOT / "conf" / f"elastic_{own}.yaml"
    stock = resolve_name(f"megatron.bridge.recipes.nemotronh.{recipe}")
    return BridgeFamily(f"stock_sft_{name}", stock, shape, block, chat=True)


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


if "STOCK_SFT" in os.environ:
    FAMILY = family(os.environ["STOCK_SFT"])
