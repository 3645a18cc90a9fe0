# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members in a checkpoint: encoding, state dict, router submodule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from nemo_elastic.errors import ElasticError
from nemo_elastic.family import Subnet
from nemo_elastic.nemo.members import Members, decode, encode
from tests.shapes import PARENT
from tests.test_family import members


@given(members())
def test_codes_round_trip(m: Subnet) -> None:
    code = encode(PARENT, m)
    assert len(code) == 1 + 3 * PARENT.num_layers
    assert decode(PARENT, code) == m


def test_members_travel_in_the_state_dict() -> None:
    a, b = Members(PARENT, 2), Members(PARENT, 2)
    assert not a.found
    small = PARENT.uniform(keep=[0, 1, 3], hidden=8)
    a.put([PARENT.full, small], frozen=True)
    b.load_state_dict(a.state_dict())
    assert b.found
    assert b.is_frozen
    assert b.get() == [PARENT.full, small]


def test_a_damaged_code_is_refused() -> None:
    code = encode(PARENT, PARENT.full)
    with pytest.raises(ElasticError, match="hidden: 99"):
        decode(PARENT, [99, *code[1:]])


def test_buffers_are_read_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every micro-batch asks for the members: with a GPU each reading would make the host wait."""
    held, other = Members(PARENT, 1), Members(PARENT, 1)
    held.put([PARENT.full], frozen=False)
    assert (held.is_frozen, held.get()) == (False, [PARENT.full])
    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "cpu", "numpy", "__bool__"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a buffer is read"))
        first = held.get()
        assert held.found
        assert not held.is_frozen
        assert held.get() is first
    small = PARENT.uniform(hidden=8)
    other.put([small], frozen=True)
    held.load_state_dict(other.state_dict())
    assert (held.is_frozen, held.get()) == (True, [small])
    held.put([PARENT.full], frozen=True)
    assert held.double().get() == [PARENT.full]
