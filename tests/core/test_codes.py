# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as integers, with the names of their axes, read whatever axes a parent has by then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from nemo_elastic.core.codes import decode, encode, width
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError
from tests.shapes import GROUPS, PARENT
from tests.strategies import parents_and_subnets


@given(parents_and_subnets(optional=True))
def test_any_member_comes_back(case: tuple[Parent, Subnet]) -> None:
    parent, member = case
    code = encode(parent, member)
    assert len(code) == width(parent) and decode(parent, code) == member


def test_an_old_code_of_a_parent_that_has_one_more_axis_by_now() -> None:
    before = replace(GROUPS, sizes={size: n for size, n in GROUPS.sizes.items() if size != "kv_heads_stripes"})
    read = decode(GROUPS, encode(before, before.uniform(attention_heads=4)))
    assert read.widths("attention_heads") == (4,) and read.widths("kv_heads") == (4,)


def test_a_damaged_code_is_refused() -> None:
    for parent in (PARENT, GROUPS):
        code = encode(parent, parent.full)
        at = code.index(parent.hidden)
        with pytest.raises(ElasticError, match="hidden: 99"):
            decode(parent, [*code[:at], 99, *code[at + 1 :]])
        with pytest.raises(ElasticError, match=r"checkpoint\.elastic\.codes: .* members of 5 layers"):
            decode(parent, code[:-1])
    with pytest.raises(ElasticError, match=r"checkpoint\.elastic\.codes: 7 .* a later version of nemo-elastic"):
        decode(GROUPS, [code[0], 7, *code[2:]])
    with pytest.raises(ElasticError, match=r"checkpoint\.elastic\.codes"):
        decode(GROUPS, [-(2**62), *code[1:]])
