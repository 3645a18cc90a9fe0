# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The layout table against independent knowledge of the architecture."""

from __future__ import annotations

import math

from hypothesis import given

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.layout import by_name, is_exact, megatron_selection, selection, table, tensors
from tests.shapes import LATENT, NANO_12B, PARENT
from tests.strategies import subnets


def test_shapes_of_nano_12b_by_hand() -> None:
    shapes = {t.hf: t.shape for t in tensors(NANO_12B, NANO_12B.full)}
    inner, bc = 128 * 80, 8 * 128
    assert shapes["backbone.layers.0.mixer.in_proj.weight"] == (2 * inner + 2 * bc + 128, 5120)
    assert shapes["backbone.layers.0.mixer.conv1d.weight"] == (inner + 2 * bc, 1, 4)
    assert shapes["backbone.layers.7.mixer.k_proj.weight"] == (8 * 128, 5120)
    assert shapes["backbone.layers.1.mixer.down_proj.weight"] == (5120, 20480)
    assert shapes["lm_head.weight"] == (131072, 5120)


def test_names_are_unique_and_numbered_within_the_member() -> None:
    member = PARENT.uniform(keep=[1, 3, 4])
    listed = tensors(PARENT, member)
    names = [t.hf for t in listed]
    assert len(names) == len(set(names))
    assert {n.split(".")[2] for n in names if ".layers." in n} == {"0", "1", "2"}
    assert len({r.name for r in table()}) == len(table())


@given(subnets(PARENT))
def test_a_selection_keeps_as_much_as_the_member_has(m: Subnet) -> None:
    for t in tensors(PARENT, m):
        index = t.layer.index if t.layer else None
        for dim, size in enumerate(t.shape):
            kept = selection(PARENT, t.row, dim, PARENT.full, m, index)
            assert kept.kept_size == size
            assert kept.indices.max() < kept.size


def test_heads_are_cut_in_every_group_and_b_c_never_pitfall_2() -> None:
    small = PARENT.uniform(mamba_heads=2, mamba_head_dim=3)
    rows = selection(PARENT, by_name("mamba.in_proj"), 0, PARENT.full, small, 0).indices
    inner, bc, heads, dim = 24, 8, 6, 4
    z = [h * dim + c for h in (0, 3) for c in range(3)]  # the first head of both groups of three
    want = [*z, *(inner + i for i in z), *range(2 * inner, 2 * inner + 2 * bc)]
    want += [2 * inner + 2 * bc + h for h in (0, 3)]
    assert rows.tolist() == want
    assert len(rows) < 2 * inner + 2 * bc + heads


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
