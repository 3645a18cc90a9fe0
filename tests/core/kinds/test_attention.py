# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Attention as a kind of layer: its tensors, work and cache, counted by hand."""

from __future__ import annotations

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.attention import KIND, cache, flops
from nemo_elastic.core.layout import tensors

SIZES = {"hidden": 10, "attention_heads": 6, "kv_heads": 2, "attention_head_dim": 5}
PARENT = Parent(pattern="*", hidden=10, vocab=8, attention_heads=6, kv_heads=2, attention_head_dim=5)


def test_its_tensors_have_the_names_and_shapes_of_hugging_face() -> None:
    actual = {t.hf: t.shape for t in tensors(PARENT, PARENT.full) if t.layer is not None}
    assert actual == {
        "backbone.layers.0.norm.weight": (10,),
        "backbone.layers.0.mixer.q_proj.weight": (30, 10),
        "backbone.layers.0.mixer.k_proj.weight": (10, 10),
        "backbone.layers.0.mixer.v_proj.weight": (10, 10),
        "backbone.layers.0.mixer.o_proj.weight": (10, 30),
    }


def test_scores_and_sums_cost_two_products_over_half_of_the_context() -> None:
    products = 2 * 6 * 5  # of a query with a key, and of a score with a value, for each head
    assert flops(SIZES, length=100) == 2 * products * 50


def test_the_cache_holds_a_key_and_a_value_of_every_token() -> None:
    assert cache(SIZES, batch=3, length=7) == {"kv": (3 * 7) * (2 + 2) * 5}


def test_megatron_stores_queries_keys_and_values_in_one_tensor() -> None:
    stored = {row.name: row.megatron for row in KIND.rows}
    assert len({stored[f"attention.{part}"] for part in "qkv"}) == 1
    assert all(row.interleaved == "kv_heads" for row in KIND.rows if row.name[-2:] in (".q", ".k", ".v"))
