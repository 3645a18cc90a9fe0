# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Attention as a kind of layer: its tensors, work and cache, counted by hand."""

from __future__ import annotations

from nemo_elastic.core.kinds.attention import cache, flops

SIZES = {"hidden": 10, "attention_heads": 6, "kv_heads": 2, "attention_head_dim": 5}


def test_scores_and_sums_cost_two_products_over_half_of_the_context() -> None:
    products = 2 * 6 * 5  # of a query with a key, and of a score with a value, for each head
    assert flops(SIZES, length=100) == 2 * products * 50


def test_the_cache_holds_a_key_and_a_value_of_every_token() -> None:
    assert cache(SIZES, batch=3, length=7) == {"kv": (3 * 7) * (2 + 2) * 5}
