# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The layout table against independent knowledge of the architecture."""

from __future__ import annotations

import math

from hypothesis import given

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.layout import by_name, is_exact, megatron_selection, selection, tensors
from tests.shapes import LATENT, PARENT
from tests.strategies import subnets


@given(subnets(PARENT))
def test_a_selection_keeps_as_much_as_the_member_has(m: Subnet) -> None:
    for t in tensors(PARENT, m):
        index = t.layer.index if t.layer else None
        for dim, size in enumerate(t.shape):
            kept = selection(PARENT, t.row, dim, PARENT.full, m, index)
            assert kept.kept_size == size
            assert kept.indices.max() < kept.size


def test_fused_projection_keeps_queries_per_group_and_all_keys() -> None:
    small = PARENT.uniform(attention_heads=2)
    kept = megatron_selection(PARENT, by_name("attention.k"), 0, PARENT.full, small, 3)
    per, dim = 2, 4
    block = (per + 2) * dim
    want = [g * block + i for g in range(2) for i in (*range(dim), *range(per * dim, block))]
    assert kept.indices.tolist() == want
    assert kept.size == math.prod((2, block))


def test_of_all_tensors_no_cast_may_round_the_biases_of_experts() -> None:
    assert not any(is_exact(t.hf) for t in tensors(PARENT, PARENT.full))
    exact = [t.hf for t in tensors(LATENT, LATENT.full) if is_exact(t.hf)]
    assert exact == [f"backbone.layers.{i}.mixer.gate.e_score_correction_bias" for i in (1, 4)]
    assert is_exact("mtp.layers.1.mixer.gate.e_score_correction_bias") and not is_exact("mtp.layers.1.norm.weight")
