# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Experts as a kind of layer: tensors, names, widths and counts, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nemo_elastic.core.cost import MemorySpec, active_parameters, flops_per_token, has_inactive, memory, parameters
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.layout import tensors
from nemo_elastic.errors import ElasticError
from tests.shapes import LATENT, MOE, PARENT

ONE = replace(LATENT, pattern="E")


def test_what_a_parent_lacks_no_layer_has() -> None:
    with pytest.raises(ElasticError, match=r"layers\[0\].widths.*a moe layer has experts, expert_ffn, shared_ffn$"):
        Subnet(16, (Layer(1, "moe", LATENT.full.layers[1].widths),)).validate(MOE)
    with pytest.raises(ElasticError, match=r"layers\[0\].widths"):
        Subnet.from_json({"hidden": 16, "layers": [MOE.full.to_json()["layers"][1]]}, LATENT)
    with pytest.raises(ElasticError, match=r"parent\.shared_ffn: missing"):
        replace(MOE, sizes={size: n for size, n in MOE.sizes.items() if size != "shared_ffn"})
    with pytest.raises(ElasticError, match="experts: 8 is not allowed; must be at least 9"):
        replace(MOE, top_k=9)


@pytest.mark.parametrize("parent", [LATENT, MOE])
def test_a_token_meets_as_many_experts_as_it_is_sent_to(parent: Parent) -> None:
    small = parent.uniform(experts=4, expert_ffn=6)
    counted = sum(math.prod(t.shape) for t in tensors(parent, small))
    one = sum(math.prod(t.shape) for t in tensors(parent, small) if t.number == 0)
    assert parameters(parent, small) == counted
    assert active_parameters(parent, small) == counted - (4 - 2) * one
    assert active_parameters(parent, parent.uniform(experts=6, expert_ffn=6)) == counted - 2 * one + 2 * 2 * 16 + 2 * 2
    gone = flops_per_token(parent, parent.full) - flops_per_token(parent, parent.uniform(experts=4))
    assert gone == 2 * 2 * 4 * 16  # two layers, multiply and add, four rows of the gate: other experts are not run


def test_memory_holds_all_experts_and_only_they_are_distinguished() -> None:
    spec = MemorySpec(weights="fp32")
    held = memory(MOE, MOE.full, spec) - memory(MOE, MOE.uniform(experts=4), spec)
    assert held == 4 * (parameters(MOE, MOE.full) - parameters(MOE, MOE.uniform(experts=4)))
    assert has_inactive(MOE) and not has_inactive(PARENT)
    assert active_parameters(PARENT, PARENT.full) == parameters(PARENT, PARENT.full)
