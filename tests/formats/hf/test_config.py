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
from tests.strategies import parents_and_subnets

#: As on the hub, in its words and with its infinity.
NANO = {
    "architectures": ["NemotronHForCausalLM"],
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig"},
    "bos_token_id": 1,
    "chunk_size": 128,
    "conv_kernel": 4,
    "eos_token_id": 12,
    "expand": 2,
    "head_dim": 128,
    "hidden_size": 4480,
    "hybrid_override_pattern": NANO_9B.pattern,
    "intermediate_size": 15680,
    "layer_norm_epsilon": 1e-05,
    "mamba_head_dim": 80,
    "mamba_hidden_act": "silu",
    "mamba_num_heads": 128,
    "max_position_embeddings": 131072,
    "mlp_hidden_act": "relu2",
    "model_type": "nemotron_h",
    "n_groups": 8,
    "num_attention_heads": 40,
    "num_hidden_layers": 56,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "sliding_window": None,
    "ssm_state_size": 128,
    "tie_word_embeddings": False,
    "time_step_limit": [0.0, float("inf")],
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_conv_bias": True,
    "vocab_size": 131072,
}


def changed(**other):
    return {k: v for k, v in (NANO | other).items() if v is not ...}


def shape_of(parent, member):
    """What a config can tell of a member: its widths layer by layer; key-value heads are one where they differ."""
    whole = {"kv_heads"} if len(set(member.widths("kv_heads"))) < 2 else set()
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


#: Nemotron-3 Nano 30B-A3B as on the hub; layers, heads and settings without a shape left to those of `NANO`
NANO_3 = NANO | {
    "eos_token_id": 2,
    "hidden_size": 2688,
    "hybrid_override_pattern": NANO_30B.pattern,
    "intermediate_size": 1856,
    "mamba_head_dim": 64,
    "mamba_num_heads": 64,
    "max_position_embeddings": 262144,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 52,
    "num_key_value_heads": 2,
    "routed_scaling_factor": 2.5,
    "topk_group": 1,
}


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
    }
    assert "moe_latent_size" not in config and "num_nextn_predict_layers" not in config
    assert to_hf_config(LATENT, LATENT.uniform(latent=5))["moe_latent_size"] == 5
    assert from_hf_config(NANO_3 | {"routed_scaling_factor": 1})[0].size("routed_scaling") == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"n_group": 4}, "n_group: 4 is not allowed; only 1"),
        ({"norm_topk_prob": False}, "norm_topk_prob: False is not allowed; only True"),
        ({"n_shared_experts": 2}, "n_shared_experts: 2"),
        ({"num_experts_per_tok": 200}, "experts: 128 is not allowed; must be at least 200"),
        ({"routed_scaling_factor": 0.0}, "routed_scaling_factor: 0.0 is not allowed; must be a positive number"),
        ({"n_routed_experts": None}, "n_routed_experts is missing"),
        ({"moe_latent_size": 0}, "moe_latent_size: 0"),
    ],
)
def test_experts_that_cannot_be_cut_are_one_line(other, message):
    with pytest.raises(ElasticError, match=message):
        from_hf_config(NANO_3 | other)


OLD, NEW = ("mamba", "mlp", "attention"), ("linear_attention", "mlp", "full_attention")


@pytest.mark.parametrize("key", ["layers_block_type", "layer_types"])
@pytest.mark.parametrize("names", [OLD, NEW], ids=["old", "new"])
def test_layer_types_in_old_and_new_words(names, key):
    words = dict(zip("M-*", names))
    config = changed(hybrid_override_pattern=..., **{key: [words[c] for c in NANO_9B.pattern]})
    assert from_hf_config(config) == from_hf_config(NANO)
    assert from_hf_config(config | {"num_hidden_layers": 56}) == from_hf_config(NANO)
    # beside the pattern it may be there too, as long as both say the same
    assert from_hf_config(config | {"hybrid_override_pattern": NANO_9B.pattern}) == from_hf_config(NANO)
    other = NANO_9B.pattern.replace("*", "-", 1)
    with pytest.raises(ElasticError, match="do not agree"):
        from_hf_config(config | {"hybrid_override_pattern": other})


def test_blocks_in_old_and_new_words():
    uneven = Subnet(12, (PARENT.layer(0), PARENT.layer(1, ffn=8), PARENT.layer(3), PARENT.layer(4)))
    config = to_hf_config(PARENT, uneven)
    read = from_hf_config(config)
    for block in config["block_configs"]:
        block["block_type"] = dict(zip(OLD, NEW))[block["block_type"]]
    assert from_hf_config(config) == read


def test_what_transformers_writes_beside():
    """transformers 5 writes settings of parts that a dense model has not, and infinity in its own way."""
    config = changed(
        hybrid_override_pattern=..., num_hidden_layers=..., dtype="float32", torch_dtype=...,
        layers_block_type=[dict(zip("M-*", NEW))[c] for c in NANO_9B.pattern],
        time_step_limit=[0.0, {"__float__": "Infinity"}], time_step_min=0.001, mtp_layers_block_type=["mlp", "moe"],
        num_nextn_predict_layers=0, n_routed_experts=8, moe_latent_size=None, use_mamba_kernels=True,
        transformers_version="5.19.0", mamba_proj_bias=False, num_logits_to_keep=1,
    )  # fmt: skip
    assert from_hf_config(config) == from_hf_config(NANO)


@pytest.mark.parametrize("key", ["layer_norm_epsilon", "rms_norm_eps", "norm_eps"])
def test_the_epsilon_in_each_of_its_words(key):
    config = changed(layer_norm_epsilon=..., rms_norm_eps=...) | {key: 1e-3}
    assert from_hf_config(config)[0].norm_eps == 1e-3


def test_keys_in_old_words():
    config = changed(
        n_groups=..., mamba_n_groups=8, conv_kernel=..., mamba_d_conv=4, head_dim=..., attention_head_dim=128,
        layer_norm_epsilon=..., intermediate_size=[15680],
    )  # fmt: skip
    assert from_hf_config(config) == from_hf_config(NANO)
    assert from_hf_config(changed(num_key_value_heads=None))[0].kv_heads == 40


def test_sizes_of_layers_that_are_not_there_are_not_needed():
    config = changed(hybrid_override_pattern="-*", num_hidden_layers=2, mamba_num_heads=..., ssm_state_size=...)
    assert from_hf_config(config)[0].pattern == "-*"


def test_per_layer_widths():
    uneven = Subnet(12, (PARENT.layer(0, mamba_heads=4), PARENT.layer(1, ffn=8), PARENT.layer(4, ffn=12)))
    config = to_hf_config(PARENT, uneven)
    assert config["block_configs"] == [
        {"block_type": "mamba", "mamba_num_heads": 4, "mamba_head_dim": 4},
        {"block_type": "mlp", "intermediate_size": 8},
        {"block_type": "mlp", "intermediate_size": 12},
    ]
    assert config["architectures"] == ["NemotronHPuzzleForCausalLM"] and set(config["auto_map"]) == {
        "AutoConfig",
        "AutoModelForCausalLM",
    }
    read, held = from_hf_config(config)
    assert read.ffn == 12 and held.widths("ffn") == (8, 12) and read.mamba_heads == 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model_type": ...}, "model_type: None"),
        ({"hybrid_override_pattern": "MG*"}, "hybrid_override_pattern: 'MG.' is not allowed"),
        ({"hybrid_override_pattern": ...}, "layers_block_type is missing"),
        ({"layers_block_type": ["mamba", "gru"]}, "'gru' is not allowed"),
        ({"layers_block_type": [["mamba"]]}, "layers_block_type"),
        ({"layers_block_type": ["mamba"]}, "do not agree"),
        ({"hidden_size": True}, "hidden_size: True"),
        ({"intermediate_size": [1, 2]}, "intermediate_size"),
        ({"mamba_num_heads": 100}, "mamba_heads: 100 is not allowed; must be a positive multiple of its 8"),
        ({"num_attention_heads": 41}, "attention_heads: 41"),
        ({"attention_bias": True}, "attention_bias: True is not allowed; only False"),
        ({"use_conv_bias": False}, "use_conv_bias"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"time_step_limit": [0.0, 0.5]}, "time_step_limit"),
        ({"tie_word_embeddings": "no"}, "tied"),
        ({"layer_norm_epsilon": 2.0}, "norm_eps"),
        ({"model_type": PUZZLE}, "block_configs: None is not allowed; a list of 56"),
        ({"model_type": PUZZLE, "block_configs": [{}] * 56}, "block_configs.0.*as the pattern says"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_one_line(other, message):
    with pytest.raises(ElasticError, match=message) as caught:
        from_hf_config(changed(**other), "x/config.json")
    assert caught.value.message.startswith("x/config.json: ") and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"block_type": "mlp", "intermediate_size": "8"}, r"block_configs\[1\].intermediate_size: '8'"),
        ({"block_type": "mlp", "hidden_size": 8}, r"block_configs\[1\].hidden_size: 8 .*only intermediate_size"),
        ({"block_type": "attention"}, r"block_configs\[1\]: .*block_type 'mlp'"),
        ("mlp", r"block_configs\[1\]"),
    ],
)
def test_wrong_blocks(block, message):
    uneven = Subnet(12, (PARENT.layer(0), PARENT.layer(1, ffn=8), PARENT.layer(4)))
    config = to_hf_config(PARENT, uneven)
    config["block_configs"][1] = block
    with pytest.raises(ElasticError, match=message):
        from_hf_config(config)
