# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members in a checkpoint: encoding, state dict, router submodule."""

from __future__ import annotations

import pytest
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
