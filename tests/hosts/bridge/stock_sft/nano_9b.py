# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's own SFT recipe of the 9B as a family on packed conversations, to be rehearsed."""

from __future__ import annotations

from megatron.bridge.recipes.nemotronh.nemotron_nano_v2 import nemotron_nano_9b_v2_sft_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily
from tests.workers import ROOT

FAMILY = BridgeFamily(
    name="stock_sft_nano_9b",
    stock=nemotron_nano_9b_v2_sft_config,
    shape="nemotron-nano-9b-v2",
    block=ROOT / "conf" / "elastic_9b.yaml",
    chat=True,
)
