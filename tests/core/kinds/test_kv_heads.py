# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Key-value heads as an axis, from a block to a member's folder; `formats/hf/test_transformers.py` has the logits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_elastic import ElasticConfig, Family, Subnet
from nemo_elastic.core.cost import MemorySpec, cache_elements, memory, parameters
from nemo_elastic.core.kinds.attention import ATTENTION_HEADS, KIND, KV_HEADS, KV_STRIPES, PLAIN
from nemo_elastic.core.layout import tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.config import from_hf_config, to_hf_config
from nemo_elastic.nn.nemotron_h import NemotronH
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


def test_it_is_priced() -> None:
    member = SHAPE.uniform(kv_heads=2, attention_heads=2)
    assert parameters(SHAPE, member) == sum(t.numel() for t in NemotronH.random(SHAPE, member=member).parameters())
    assert cache_elements(SHAPE, member, 1, 10)["kv"] * 2 == cache_elements(SHAPE, SHAPE.full, 1, 10)["kv"]
    long = MemorySpec(length=10_000)
    assert memory(SHAPE, SHAPE.full, long) - memory(SHAPE, member, long) > 2 * 10_000 * 2 * 2 * 4 - 1


def test_layers_that_differ_come_back_from_their_config() -> None:
    parent = replace(SHAPE, pattern="*-*")
    member = Subnet(16, (parent.layer(0, kv_heads=2), parent.layer(1), parent.layer(2, attention_heads=4)))
    config = to_hf_config(parent, member.validate(parent))
    report = [(b["num_attention_heads"], b["num_key_value_heads"]) for b in config["block_configs"] if len(b) == 3]
    assert report == [(4, 2), (4, 4)]
    read, held = from_hf_config(config)
    assert [layer.widths for layer in held.layers] == [layer.widths for layer in member.layers]
    assert (read.attention_heads, read.kv_heads) == (8, 4)
