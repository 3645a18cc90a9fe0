# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens in shares: a chunk is the same rows of every rank. Real ranks share them in `loss/test_head.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.nn.token_shards import TokenShards


class Ranks:
    """As much of a process group as can be asked without a process."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks

    def size(self) -> int:
        return self._ranks


def shards(ranks: int) -> TokenShards:
    group: Any = Ranks(ranks) if ranks > 1 else None
    return TokenShards(group)


@given(ranks=st.integers(1, 4), chunk=st.integers(1, 40), own=st.integers(1, 30))
def test_chunks_are_a_ranks_own_rows_in_order_and_of_no_more_tokens_than_asked(
    ranks: int, chunk: int, own: int
) -> None:
    found = list(shards(ranks).chunks(chunk, own))
    assert [row for at in found for row in range(own)[at]] == list(range(own))
    assert all(ranks * (at.stop - at.start) <= max(chunk, ranks) for at in found)


@given(ranks=st.integers(1, 4), chunk=st.integers(1, 40), own=st.integers(1, 12))
def test_what_is_picked_and_put_chunk_by_chunk_is_the_whole(ranks: int, chunk: int, own: int) -> None:
    whole_t = torch.arange(ranks * own)
    copy_t = torch.full_like(whole_t, -1)
    for at in shards(ranks).chunks(chunk, own):
        shards(ranks).put(copy_t, at, shards(ranks).pick(whole_t, at))
    assert torch.equal(copy_t, whole_t)


def test_a_chunk_is_the_same_rows_of_every_ranks_run() -> None:
    whole_t = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])  # of rank 0, then of rank 1
    assert shards(2).pick(whole_t, slice(1, 3)).tolist() == [1, 2, 11, 12]


def test_one_rank_gets_a_view_and_no_buffer() -> None:
    own_od = torch.zeros(6, 2)
    assert shards(1).room(own_od, 4) is None
    shards(1).gather(own_od, slice(2, 4), None).fill_(1)
    assert own_od.sum(1).tolist() == [0, 0, 2, 2, 0, 0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_buffer_has_room_for_the_largest_chunk_of_all_ranks(ranks: int) -> None:
    own_od = torch.zeros(6, 5, dtype=torch.bfloat16)
    room_cd = shards(ranks).room(own_od, 12)
    assert room_cd is not None and room_cd.dtype == own_od.dtype
    longest = max(at.stop - at.start for at in shards(ranks).chunks(12, 6))
    assert room_cd.shape == (ranks * longest, 5)
