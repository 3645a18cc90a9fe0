# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Bridge's own SFT recipe of the Nemotron 3 Nano 4B at 32768 tokens, which two ranks share, to be rehearsed."""

from __future__ import annotations

from megatron.bridge.recipes.nemotronh.nemotron_3_nano_4b import nemotron_3_nano_4b_sft_32k_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily
from tests.workers import ROOT

FAMILY = BridgeFamily(
    name="stock_sft_nano_4b_32k",
    stock=nemotron_3_nano_4b_sft_32k_config,
    shape="nemotron-3-nano-4b",
    block=ROOT / "conf" / "elastic_4b.yaml",
    chat=True,
)
