# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Costs: published counts, sums of tensor sizes, differentiability."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given

from nemo_elastic.core.cost import (
    ExpectedLayer,
    MemorySpec,
    cache_elements,
    flops_per_token,
    memory,
    parameters,
)
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.attention import flops as attention_flops
from nemo_elastic.core.layout import is_exact, tensors
from nemo_elastic.core.precision import default_rows
from tests.shapes import LATENT, PARENT
from tests.strategies import subnets
from tests.support.expected import Expected


@given(subnets(PARENT))
def test_parameters_are_the_sum_of_the_tensors_pitfall_8(m: Subnet) -> None:
    assert parameters(PARENT, m) == sum(math.prod(t.shape) for t in tensors(PARENT, m))


@given(subnets(PARENT))
def test_an_expected_member_at_certainty_costs_what_the_subnet_costs(m: Subnet) -> None:
    layers = tuple(
        ExpectedLayer(x.index, x.type, {a: torch.tensor(float(n)) for a, n in x.widths.items()}, torch.tensor(1.0))
        for x in m.layers
    )
    e = Expected(torch.tensor(float(m.hidden)), layers)
    spec = MemorySpec(batch=2, length=64)
    assert float(parameters(PARENT, e)) == parameters(PARENT, m)
    assert float(memory(PARENT, e, spec)) == pytest.approx(memory(PARENT, m, spec))
    assert float(flops_per_token(PARENT, e, 8)) == pytest.approx(flops_per_token(PARENT, m, 8))


def test_memory_by_hand() -> None:
    m = PARENT.full
    spec = MemorySpec(batch=3, length=10, weights="fp32", cache="bf16")
    kv = 1 * 2 * 3 * 10 * 2 * 4
    inner, mambas = 24, 2
    conv, ssm = mambas * 3 * (inner + 2 * 2 * 4) * 3, mambas * 3 * inner * 4
    assert cache_elements(PARENT, m, 3, 10) == {"kv": kv, "conv": conv, "ssm": ssm}
    assert memory(PARENT, m, spec) == parameters(PARENT, m) * 4 + (kv + conv) * 2 + ssm * 4


@pytest.mark.parametrize(("weights", "each"), [("fp32", 4), ("nvfp4", 0.5625)])
def test_what_no_cast_may_round_takes_four_bytes(weights: str, each: float) -> None:
    member = LATENT.uniform([0, 1, 3], experts=4)
    spec = MemorySpec(weights=weights, length=16)
    held_by = tensors(LATENT, member)
    sizes = {t.hf: math.prod(t.shape) for t in held_by}
    low = {t.hf for t in held_by if (t.row.name, t.index) in default_rows(LATENT)}
    assert low and len(low) < len(sizes)
    cache = cache_elements(LATENT, member, 1, 16)
    rest = 2 if weights == "nvfp4" else each  # what low precision leaves
    held = sum(n * (4 if is_exact(name) else each if name in low else rest) for name, n in sizes.items())
    assert memory(LATENT, member, spec) == held + (cache["kv"] + cache["conv"]) * 2 + cache["ssm"] * 4
    assert sum(n for name, n in sizes.items() if is_exact(name)) == 4


def test_flops_of_the_matrices_are_two_per_parameter_and_scores_meet_half_of_the_context() -> None:
    m = Subnet(16, (PARENT.layer(1),))
    assert flops_per_token(PARENT, m) == 2 * (32 * 16 + 2 * 16 * 16)
    # of a query with a key, and of a score with a value, for each head
    sizes = {"hidden": 10, "attention_heads": 6, "kv_heads": 2, "attention_head_dim": 5}
    assert attention_flops(sizes, length=100) == 2 * (2 * 6 * 5) * 50
