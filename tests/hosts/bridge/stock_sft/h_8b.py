# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's own SFT recipe of the Nemotron-H 8B as a family on packed conversations, to be rehearsed."""

from __future__ import annotations

from megatron.bridge.recipes.nemotronh.nemotronh import nemotronh_8b_sft_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily
from tests.workers import ROOT

FAMILY = BridgeFamily(
    name="stock_sft_h_8b",
    stock=nemotronh_8b_sft_config,
    shape="nemotron-h-8b",
    block=ROOT / "conf" / "elastic_8b.yaml",
    chat=True,
)
