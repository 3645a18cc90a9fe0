# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Key-value heads as an axis, from a block to a member's folder; `formats/hf/test_transformers.py` has the logits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_elastic import ElasticConfig, Family
from nemo_elastic.core.kinds.attention import ATTENTION_HEADS, KIND, KV_HEADS, KV_STRIPES, PLAIN
from nemo_elastic.core.layout import tensors
from nemo_elastic.errors import ElasticError
from tests.shapes import PARENT

WHOLE = replace(PARENT, attention_heads=8, kv_heads=4)
BLOCK = {
    "budgets": [{"name": "mid", "ratio": 0.9}, {"name": "small", "memory": {"size": 13_000, "length": 64}}],
    "axes": {
        "hidden": [16, 12],
        ATTENTION_HEADS: {"choices": [8, 4], "per_layer": True},
        KV_HEADS: {"choices": [4, 2], "per_layer": True},
    },
}
CONFIG = ElasticConfig.from_dict(BLOCK)
SHAPE = CONFIG.parent_shape(WHOLE)


def widths(heads: int, kv_heads: int) -> dict[str, int]:
    return {ATTENTION_HEADS: heads, KV_HEADS: kv_heads}


def test_it_is_an_axis_where_a_block_lists_it_alone() -> None:
    without = ElasticConfig.from_dict({**BLOCK, "axes": {"hidden": [16, 12]}})
    assert without.parent_shape(WHOLE).kind("attention") is PLAIN and SHAPE.kind("attention") is KIND
    assert KV_HEADS not in without.parent_shape(WHOLE).axes and SHAPE.axes[-1] == KV_HEADS
    assert KV_STRIPES not in without.parent_shape(WHOLE).to_json()
    assert SHAPE.to_json()[KV_STRIPES] == 2  # so many divide 4 and 2
    assert CONFIG.resolve_axes(WHOLE).keys() == CONFIG.resolve_axes(SHAPE).keys() == {*SHAPE.axes}
    with pytest.raises(ElasticError, match=r"elastic\.axes\.kv_heads.*no attention layer"):
        ElasticConfig.from_dict({**BLOCK, "axes": {KV_HEADS: [4, 2]}}).resolve_axes(replace(WHOLE, pattern="M-M"))


def test_query_heads_go_with_their_group() -> None:
    assert SHAPE.uniform(kv_heads=2).layers[3].widths == widths(4, 2)
    member = SHAPE.uniform(kv_heads=2, attention_heads=2)
    shapes = {t.hf.split(".")[-2]: t.shape for t in tensors(SHAPE, member) if "_proj" in t.hf and t.index == 3}
    assert shapes == {"q_proj": (8, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 8)}
    for heads, kv_heads, field in ((6, 2, "heads: 6"), (4, 3, "kv_heads: 3")):
        with pytest.raises(ElasticError, match=f"{field} is not allowed; allowed are 2 to 4 in multiples of 2"):
            SHAPE.uniform(attention_heads=heads, kv_heads=kv_heads)


def test_nesting_counts_heads_in_each_group() -> None:
    two_of_two, one_of_four = SHAPE.uniform(kv_heads=2), SHAPE.uniform(attention_heads=4)
    assert two_of_two.widths(ATTENTION_HEADS) == one_of_four.widths(ATTENTION_HEADS) == (4,)
    assert not two_of_two <= one_of_four and not one_of_four <= two_of_two
    with pytest.raises(ElasticError, match="has attention_heads 2 for each of its kv_heads, above 1"):
        Family.of(SHAPE, {"full": SHAPE.full, "a": one_of_four, "b": two_of_two})
