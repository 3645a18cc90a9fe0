# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.formats.adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import tensors
from nemo_elastic.formats.adapter import extra_states, to_megatron, whole_sizes
from nemo_elastic.nn.weights import cut_state, random_state
from tests.hosts.nemo.cutting import PARENT, assert_equal, random_tensors
from tests.shapes import LATENT, MOE
from tests.support.states import from_megatron, stored_as


@pytest.fixture(scope="module")
def full() -> dict[str, torch.Tensor]:
    return random_tensors(PARENT)


def test_query_key_value_rows_are_interleaved_by_group():
    parent = Parent("*", hidden=1, vocab=2, attention_heads=4, kv_heads=2, attention_head_dim=1)
    state = {t.hf: torch.zeros(t.shape) for t in tensors(parent, parent.full)}
    state["backbone.layers.0.mixer.q_proj.weight"] = torch.tensor([[0.0], [1], [2], [3]])
    state["backbone.layers.0.mixer.k_proj.weight"] = torch.tensor([[10.0], [11]])
    state["backbone.layers.0.mixer.v_proj.weight"] = torch.tensor([[20.0], [21]])
    fused = to_megatron(parent, parent.full, state)["decoder.layers.0.self_attention.linear_qkv.weight"]
    assert fused.flatten().tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_numpy_arrays_are_taken_without_a_copy_even_read_only(full, recwarn):
    arrays = {name: value.numpy().copy() for name, value in full.items()}
    for value in arrays.values():
        value.setflags(write=False)
    renamed = to_megatron(PARENT, PARENT.full, arrays)
    table = renamed["embedding.word_embeddings.weight"]
    assert table.data_ptr() == arrays["backbone.embeddings.weight"].ctypes.data
    assert torch.equal(table, full["backbone.embeddings.weight"])
    assert not recwarn.list


def test_a_tied_model_may_bring_its_head_or_not():
    tied = replace(PARENT, tied=True)
    state = random_tensors(tied)
    without = to_megatron(tied, tied.full, state)
    assert "output_layer.weight" not in without
    head = {"lm_head.weight": state["backbone.embeddings.weight"]}
    assert to_megatron(tied, tied.full, state | head).keys() == without.keys()


@pytest.mark.parametrize("parent", [LATENT, MOE])
def test_experts_have_megatrons_names_and_are_stored_as_one(parent):
    member = parent.uniform([0, 1, 4], experts=4, expert_ffn=6, hidden=12)
    state = cut_state(parent, parent.full, random_state(parent, parent.full), member)
    renamed = to_megatron(parent, member, state)
    up = state["backbone.layers.2.mixer.experts.3.up_proj.weight"]
    name = "decoder.layers.2.mlp.experts.local_experts.3.linear_fc1.weight"
    assert renamed[name].data_ptr() == up.data_ptr()
    assert len(renamed) == len(state) and "decoder.layers.1.mlp.router.expert_bias" in renamed
    assert any("fc1_latent_proj" in n for n in renamed) == parent.has("latent")
    assert_equal(from_megatron(parent, member, renamed), state)
    stored = stored_as(parent, member, renamed)
    assert stored["decoder.layers.2.mlp.experts.experts.linear_fc1.weight"].shape == (4, *up.shape)
    assert not any("local_experts" in name for name in stored)
    assert whole_sizes({n: tuple(t.shape) for n, t in stored.items()}) == {
        n: tuple(t.shape) for n, t in renamed.items()
    }
    states = dict(extra_states(tensors(parent, member)))
    assert states["decoder.layers.1.mlp.experts.experts.linear_fc2._extra_state"] == 4
    assert ("decoder.layers.1.mlp.fc1_latent_proj._extra_state" in states) == parent.has("latent")
