# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""config.json to shapes and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings

from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.config import PLAIN, PUZZLE, from_hf_config, to_hf_config
from tests.shapes import LATENT, NANO_9B, NANO_12B, NANO_30B, PARENT
from tests.slicing import strangers
from tests.slicing.strangers import NANO_3
from tests.strategies import parents_and_subnets

#: As on the hub, in its words and with its infinity.
NANO = strangers.config(
    NANO_9B.pattern, hidden_size=4480, vocab_size=131072, intermediate_size=15680, mamba_num_heads=128,
    mamba_head_dim=80, n_groups=8, ssm_state_size=128, num_attention_heads=40, num_key_value_heads=8, head_dim=128,
    eos_token_id=12, max_position_embeddings=131072, rms_norm_eps=1e-05, time_step_limit=[0.0, float("inf")],
)  # fmt: skip


def changed(**other):
    return {k: v for k, v in (NANO | other).items() if v is not ...}


def shape_of(parent, member):
    """What a config can tell of a member: its widths layer by layer; an optional axis is one where they differ."""
    whole = {axis for axis in ("kv_heads", "top_k") if len(set(member.widths(axis))) < 2}
    own = [{axis: width for axis, width in layer.widths.items() if axis not in whole} for layer in member.layers]
    return member.hidden, [replace(x, index=i, widths=own[i]) for i, x in enumerate(member.layers)]


@settings(max_examples=100)
@given(parents_and_subnets(optional=True))
def test_round_trip(both):
    parent, member = both
    config = json.loads(json.dumps(to_hf_config(parent, member), allow_nan=False))
    assert config["model_type"] == (PLAIN if member.is_uniform else PUZZLE)
    read, held = from_hf_config(config)
    assert shape_of(read, held) == shape_of(parent, member)
    assert (held == read.full) == member.is_uniform
    rigid = ("vocab", "tied", "norm_eps")
    if "M" in member.pattern:
        rigid += ("mamba_groups", "state", "conv_kernel")
    if "*" in member.pattern:
        rigid += ("attention_head_dim",) if "kv_heads" in parent.axes else ("kv_heads", "attention_head_dim")
    assert all(getattr(read, f) == getattr(parent, f) for f in rigid)
    assert read.ffn_stripes == 1  # of this no config tells
    assert from_hf_config(to_hf_config(read, held)) == (read, held)


def test_published_shapes():
    read, held = from_hf_config(NANO)
    assert read == replace(NANO_9B, ffn_stripes=1) and held == read.full
    config = to_hf_config(NANO_12B, NANO_12B.uniform(hidden=4480, ffn=15680), base=NANO)
    assert config["eos_token_id"] == 12 and config["torch_dtype"] == "bfloat16"
    assert "auto_map" not in config and "time_step_limit" not in config
    assert config["time_step_min"] == 1e-12 and config["hidden_size"] == 4480
    assert config["hybrid_override_pattern"] == NANO_12B.pattern and config["num_hidden_layers"] == 62


def test_experts():
    read, held = from_hf_config(NANO_3)
    assert read == NANO_30B and held == read.full
    member = NANO_30B.uniform(hidden=2304, experts=96, expert_ffn=1536)
    config = to_hf_config(NANO_30B, member, base=NANO_3)
    report = {key: value for key, value in config.items() if key in NANO_3 and value != NANO_3[key]}
    assert report == {
        "hidden_size": 2304,
        "n_routed_experts": 96,
        "moe_intermediate_size": 1536,
        "intermediate_size": 1,
        "time_step_min": 1e-12,
    }
    assert "moe_latent_size" not in config and "num_nextn_predict_layers" not in config
    assert to_hf_config(LATENT, LATENT.uniform(latent=5))["moe_latent_size"] == 5
    assert from_hf_config(NANO_3 | {"routed_scaling_factor": 1})[0].size("routed_scaling") == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"n_group": 4}, "n_group: 4 is not allowed; only 1"),
        ({"routed_scaling_factor": 0.0}, "routed_scaling_factor: 0.0 is not allowed; must be a positive number"),
    ],
)
def test_experts_that_cannot_be_cut_are_one_line(other, message):
    with pytest.raises(ElasticError, match=message):
        from_hf_config(NANO_3 | other)


def test_keys_in_old_words():
    config = changed(
        n_groups=..., mamba_n_groups=8, conv_kernel=..., mamba_d_conv=4, head_dim=..., attention_head_dim=128,
        layer_norm_epsilon=..., intermediate_size=[15680],
    )  # fmt: skip
    assert from_hf_config(config) == from_hf_config(NANO)
    assert from_hf_config(changed(num_key_value_heads=None))[0].kv_heads == 40
    types = ["mamba" if c == "M" else "attention" if c == "*" else "mlp" for c in NANO["hybrid_override_pattern"]]
    listed = changed(hybrid_override_pattern=None, layers_block_type=None, layer_types=types)
    assert from_hf_config(listed) == from_hf_config(NANO)
    for key in ("rms_norm_eps", "norm_eps"):
        other = changed(layer_norm_epsilon=..., rms_norm_eps=...) | {key: 1e-3}
        assert from_hf_config(other)[0].norm_eps == 1e-3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model_type": ...}, "model_type: missing"),
        ({"hybrid_override_pattern": "MG*"}, "hybrid_override_pattern: 'MG.' is not allowed"),
        ({"hybrid_override_pattern": ...}, "layers_block_type is missing"),
        ({"layers_block_type": ["mamba"]}, "do not agree"),
        ({"num_hidden_layers": 6}, "num_hidden_layers: 6"),
        ({"layers_block_type": ["mamba", "gru"]}, "'gru' is not allowed"),
        ({"hidden_size": True}, "hidden_size: True"),
        ({"mamba_num_heads": 100}, "mamba_heads: 100 is not allowed; must be a positive multiple of its 8"),
        ({"attention_bias": True}, "attention_bias: True is not allowed; only False"),
        ({"time_step_limit": [0.0, 0.5]}, "time_step_limit"),
        ({"layer_norm_epsilon": 2.0}, "norm_eps"),
        ({"model_type": PUZZLE}, "block_configs: missing; a list of 56"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_one_line(other, message):
    with pytest.raises(ElasticError, match=message) as caught:
        from_hf_config(changed(**other), "x/config.json")
    assert caught.value.message.startswith("x/config.json: ") and "\n" not in caught.value.message


@pytest.mark.parametrize("block", [{"block_type": "mlp", "hidden_size": 8}, {"block_type": "attention"}])
def test_wrong_blocks(block):
    uneven = Subnet(12, (PARENT.layer(0), PARENT.layer(1, ffn=8), PARENT.layer(4)))
    config = to_hf_config(PARENT, uneven)
    config["block_configs"][1] = block
    with pytest.raises(ElasticError, match=r"block_configs\[1\]"):
        from_hf_config(config)
