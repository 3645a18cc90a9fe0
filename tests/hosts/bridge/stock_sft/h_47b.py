# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's own SFT recipe of the Nemotron-H 47B as a family on packed conversations, to be rehearsed."""

from __future__ import annotations

from megatron.bridge.recipes.nemotronh.nemotronh import nemotronh_47b_sft_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily
from tests.hosts.bridge.stock_sft import shares

FAMILY = BridgeFamily(
    name="stock_sft_h_47b",
    stock=nemotronh_47b_sft_config,
    shape="nemotron-h-47b",
    block=shares("nemotron-h-47b"),
    chat=True,
)
