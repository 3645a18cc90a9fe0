# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as integers, with the names of their axes, read whatever axes a parent has by then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given

from nemo_elastic.core.codes import decode, encode, width
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds import registry
from nemo_elastic.core.kinds.mamba import MAMBA, PLAIN
from nemo_elastic.core.kinds.record import Axis
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


@pytest.fixture
def state_is_an_axis(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mamba as a later version might have it."""
    axes = (Axis("state", "state", "states"), *PLAIN.axes)
    later = replace(PLAIN, axes=axes, rigid=tuple(size for size in PLAIN.rigid if size != "state"))
    monkeypatch.setitem(registry.KINDS, MAMBA, later)
    monkeypatch.setitem(registry._LAYER_AXES, "state", (later, axes[0]))
    yield


@pytest.mark.usefixtures("state_is_an_axis")
def test_a_new_axis_of_a_kind_leaves_codes_readable() -> None:
    member = PARENT.uniform([0, 1, 3], hidden=8, ffn=12, mamba_heads=4, mamba_head_dim=2, attention_heads=2)
    with pytest.MonkeyPatch.context() as before:
        before.setitem(registry.KINDS, MAMBA, PLAIN)
        code = encode(replace(PARENT), member)
    parent = replace(PARENT)
    assert "state" in parent.kind(MAMBA).widths
    read = decode(parent, code)
    assert read.widths("state") == (parent.state,) and read.widths("mamba_heads") == member.widths("mamba_heads")
    small = parent.uniform(state=2)
    assert decode(parent, encode(parent, small)) == small and len(encode(parent, small)) == width(parent)


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
