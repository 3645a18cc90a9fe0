# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as integers: by position as ever, by name where there are other axes, and read whatever axes there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given

from nemo_elastic.core.codes import decode, encode, width
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds import registry
from nemo_elastic.core.kinds.mamba import KIND, MAMBA
from nemo_elastic.core.kinds.record import Axis
from nemo_elastic.errors import ElasticError
from tests.core.test_family import members
from tests.shapes import GROUPS, LATENT, PARENT
from tests.strategies import parents_and_subnets

#: as version 0.1 and those before there were key-value heads among the axes wrote them
WRITTEN: list[tuple[Parent, Subnet, list[int]]] = [
    (PARENT, PARENT.uniform([0, 1, 3], hidden=8, ffn=12, mamba_heads=4, mamba_head_dim=2, attention_heads=2),
     [8, 4, 2, 1, 12, 0, 1, 0, 0, 0, 2, 0, 1, 0, 0, 0]),
    (LATENT, LATENT.uniform([1, 2, 3], hidden=9, experts=6, expert_ffn=8, shared_ffn=12, latent=4, attention_heads=2),
     [9, 0, 0, 0, 0, 0, 6, 8, 12, 4, 1, 6, 4, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
]  # fmt: skip


@given(members())
def test_codes_by_position_come_back(m: Subnet) -> None:
    code = encode(PARENT, m)
    assert len(code) == width(PARENT) == 1 + 3 * PARENT.num_layers
    assert decode(PARENT, code) == m


@given(parents_and_subnets(optional=True))
def test_any_member_comes_back(case: tuple[Parent, Subnet]) -> None:
    parent, member = case
    code = encode(parent, member)
    assert len(code) == width(parent) and decode(parent, code) == member
    assert (code[0] < 0) == ("kv_heads" in parent.axes)


@pytest.mark.parametrize(("parent", "member", "code"), WRITTEN)
def test_what_was_written_is_read_and_still_written_so(parent: Parent, member: Subnet, code: list[int]) -> None:
    assert decode(parent, code) == member and encode(parent, member) == code


def test_an_old_code_of_a_parent_that_has_one_more_axis_by_now() -> None:
    before = replace(GROUPS, sizes={size: n for size, n in GROUPS.sizes.items() if size != "kv_heads_stripes"})
    read = decode(GROUPS, encode(before, before.uniform(attention_heads=4)))
    assert read.widths("attention_heads") == (4,) and read.widths("kv_heads") == (4,)


@pytest.fixture
def state_is_an_axis(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mamba as a later version might have it."""
    axes = (Axis("state", "state", "states"), *KIND.axes)
    later = replace(KIND, axes=axes, rigid=tuple(size for size in KIND.rigid if size != "state"))
    monkeypatch.setitem(registry.KINDS, MAMBA, later)
    monkeypatch.setitem(registry._LAYER_AXES, "state", (later, axes[0]))
    yield


@pytest.mark.usefixtures("state_is_an_axis")
def test_a_new_axis_of_a_kind_leaves_codes_readable() -> None:
    parent, member, code = WRITTEN[0]
    parent = replace(parent)
    assert "state" in parent.kind(MAMBA).widths
    read = decode(parent, code)
    assert read.widths("state") == (parent.state,) and read.widths("mamba_heads") == member.widths("mamba_heads")
    small = parent.uniform(state=2)
    assert decode(parent, encode(parent, small)) == small and encode(parent, small)[0] < 0


def test_a_damaged_code_is_refused() -> None:
    for parent in (PARENT, GROUPS):
        code = encode(parent, parent.full)
        at = code.index(parent.hidden)
        with pytest.raises(ElasticError, match="hidden: 99"):
            decode(parent, [*code[:at], 99, *code[at + 1 :]])
        with pytest.raises(ElasticError, match=r"checkpoint\.elastic\.codes: .* members of 5 layers"):
            decode(parent, code[:-1])
    with pytest.raises(ElasticError, match=r"checkpoint\.elastic\.codes: 7 .* a later version may know it"):
        decode(GROUPS, [code[0], 7, *code[2:]])
    with pytest.raises(ElasticError, match=r"checkpoint\.elastic\.codes"):
        decode(GROUPS, [-(2**62), *code[1:]])
