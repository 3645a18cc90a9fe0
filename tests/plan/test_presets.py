# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Presets have the published shapes and counts, and are those of NeMo's classes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.plan import preset

#: preset -> NeMo's class
CLASSES = {
    "nemotron-nano-12b-v2": "NemotronNano12Bv2",
    "nemotron-nano-9b-v2": "NemotronNano9Bv2",
    "nemotron-h-4b": "NemotronHConfig4B",
    "nemotron-h-8b": "NemotronHConfig8B",
    "nemotron-h-47b": "NemotronHConfig47B",
    "nemotron-h-56b": "NemotronHConfig56B",
    "nemotron-h-tiny": "TinyNemotronH",
}


@pytest.mark.parametrize(
    ("name", "count", "active"),
    [
        ("nemotron-nano-12b-v2", 12_310_001_152, 12_310_001_152),
        ("nemotron-nano-9b-v2", 8_888_227_328, 8_888_227_328),
        ("nemotron-3-nano-4b", 3_973_556_832, 3_973_556_832),
        ("nemotron-3-nano-30b-a3b", 31_577_940_288, 3_580_076_352),
    ],
)
def test_published_counts(name: str, count: int, active: int) -> None:
    parent = preset(name)
    assert (parameters(parent, parent.full), active_parameters(parent, parent.full)) == (count, active)


@pytest.mark.nemo
@pytest.mark.parametrize("name", CLASSES)
def test_presets_are_nemos_classes(name: str) -> None:
    from nemo.collections.llm.gpt.model import ssm

    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.nemo.tiny import recipe as tiny

    # that fusion is TransformerEngine's, and refused without
    config = (getattr(ssm, CLASSES[name], None) or getattr(tiny, CLASSES[name]))(apply_rope_fusion=False)
    if config.kv_channels is None:  # megatron-core fills it in when the config is finalised
        config.kv_channels = config.hidden_size // config.num_attention_heads
    assert replace(parent_of(config, config.vocab_size), ffn_stripes=1) == preset(name)


def test_nano_3_is_the_one_of_megatron_bridge() -> None:
    pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
    from tests.support.bridge import import_bridge

    import_bridge()
    from megatron.bridge.recipes.nemotronh.h100 import nemotron_3_nano, nemotron_3_nano_4b

    from nemo_elastic.formats.megatron.shape import FIELDS, FIXED, layer_pattern, parent_of

    model, small = nemotron_3_nano_4b.nemotron_3_nano_4b_pretrain_8gpu_h100_bf16_config().model, "nemotron-3-nano-4b"
    assert replace(parent_of(model, model.vocab_size), ffn_stripes=1) == preset(small)
    model = nemotron_3_nano.nemotron_3_nano_pretrain_8gpu_h100_bf16_config().model
    parent = preset("nemotron-3-nano-30b-a3b")
    assert layer_pattern(model) == parent.pattern and parent.norm_eps == model.layernorm_epsilon
    fields = {size: field for size, field in FIELDS.items() if size not in ("pattern", "ffn", "norm_eps")}
    fields |= parent.kind("moe").megatron
    assert {s: getattr(model, f) for s, f in fields.items()} == {s: getattr(parent, s) for s in fields}
    assert FIXED["normalization"] == model.normalization
