# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parent and Subnet: validation, nesting, JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given

from nemo_elastic.core.family import Parent, Subnet, intersect
from nemo_elastic.errors import ElasticError
from tests.shapes import PARENT
from tests.strategies import subnets


@given(subnets(PARENT))
def test_json_round_trip(m: Subnet) -> None:
    assert Subnet.from_json(m.to_json(), PARENT) == m
    assert Parent.from_json(PARENT.to_json()) == PARENT


@given(subnets(PARENT), subnets(PARENT), subnets(PARENT))
def test_nesting_is_a_partial_order(a: Subnet, b: Subnet, c: Subnet) -> None:
    assert a <= a
    assert a <= PARENT.full
    if a <= b and b <= c:
        assert a <= c
    if a <= b and b <= a:
        assert a == b


@given(subnets(PARENT), subnets(PARENT))
def test_intersection_is_the_largest_nested_in_both(a: Subnet, b: Subnet) -> None:
    assume({*a.kept} & {*b.kept})
    both = intersect(a, b)
    assert both <= a
    assert both <= b
    assert intersect(a, a) == a
    if a <= b:
        assert both == a


def test_the_full_member_is_uniform_and_a_mixed_one_is_not() -> None:
    assert PARENT.full.is_uniform
    first, _, *rest = PARENT.full.layers
    mixed = replace(PARENT.full, layers=(first, PARENT.layer(1, ffn=8), *rest))
    assert mixed.validate(PARENT)
    assert not mixed.is_uniform


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"hidden": "16"}, r"hidden: '16' is not allowed"),
        ({"layers": []}, r"subnet.layers: \[\] is not allowed"),
        (
            {"layers": [{"index": 1, "type": "mlp", "ffn": 8, "heads": 2}]},
            r"subnet.layers\[0\]: unknown field 'heads' \(allowed: index, type, ffn\)",
        ),
        ({"layers": [{"index": 1, "type": "mlp"}]}, r"subnet.layers\[0\].ffn: missing"),
    ],
)
def test_bad_members_are_one_clear_line(change: dict, line: str) -> None:
    with pytest.raises(ElasticError, match=line) as e:
        Subnet.from_json(PARENT.full.to_json() | change, PARENT)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pattern": "MLM"}, r"one of -, M, \* and E per layer"),
        ({"mamba_heads": 7}, "mamba_heads: 7 is not allowed; must be a positive multiple of its 2 blocks"),
        ({"norm_eps": 0.0}, "parent.norm_eps"),
        ({"tied": 1}, "parent.tied"),
    ],
)
def test_bad_parents_are_one_clear_line(change: dict, line: str) -> None:
    with pytest.raises(ElasticError, match=line):
        Parent.from_json(PARENT.to_json() | change)
