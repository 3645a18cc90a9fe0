# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Caches whose sequences go at their own pace: joined, narrowed, and taken back to any position."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.shapes import PARENT
from tests.strategies import parents_and_subnets


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in double precision, but for the order of sums."""
    return (a - b).abs().max().item() <= 1e-11 * b.abs().max().item()


@settings(max_examples=40)
@given(data=st.data())
def test_what_is_taken_back_was_never_read(data):
    """Three sequences, each kept as far as it likes: what they read next gives the logits of what was kept alone."""
    parent, member = data.draw(parents_and_subnets())
    model = NemotronH.random(parent, dtype=torch.float64)
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    def some(rows: int, length: int) -> torch.Tensor:
        return torch.randint(parent.vocab, (rows, length), generator=random)

    read = [some(1, n)[0].tolist() for n in data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=3))]
    caches = [model.init_cache(1, member) for _ in read]
    for row, cache in zip(read, caches):
        model(torch.tensor([row]), member, cache=cache)
    cache = Cache.joined(caches)
    for windows in data.draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=3)):
        cache.mark()
        seen = [some(3, n) for n in windows]
        for tokens in seen:
            model(tokens, member, cache=cache)
        kept = data.draw(st.lists(st.integers(0, sum(windows)), min_size=3, max_size=3))
        cache.rewind(kept)
        read = [row + tokens[:n] for row, tokens, n in zip(read, torch.cat(seen, 1).tolist(), kept)]
    if data.draw(st.booleans()):
        rows = [2, 0]
        cache.select(torch.tensor(rows))
        read = [read[row] for row in rows]
    assert cache.lengths == [len(row) for row in read] and cache.length == max(map(len, read))
    ahead = some(len(read), 2)
    logits = model(ahead, member, cache=cache)
    for row, after, actual in zip(read, ahead.tolist(), logits):
        assert close(actual, model(torch.tensor([row + after]), member)[0, -2:])


def test_sequences_of_one_length_need_no_mask():
    """Attention knows lengths of their own only while they differ."""
    model = NemotronH.random(PARENT, dtype=torch.float64)
    cache = model.init_cache(2)
    cache.mark()
    model(torch.ones(2, 4, dtype=torch.long), cache=cache)
    cache.rewind([3, 1])
    attention = cache.layers[3]
    assert attention.lengths == [3, 1]
    cache.mark()
    model(torch.ones(2, 2, dtype=torch.long), cache=cache)
    cache.rewind([0, 2])
    assert attention.lengths is None and attention.length == 3 and cache.lengths == [3, 3]


def test_what_was_never_written_does_no_harm():
    """Room for more positions is of numbers, whatever was in that memory: masked ones are multiplied by 0."""
    model = NemotronH.random(PARENT)
    long, short = model.init_cache(1), model.init_cache(1)
    model(torch.ones(1, 9, dtype=torch.long), cache=long)
    model(torch.ones(1, 1, dtype=torch.long), cache=short)
    attention = Cache.joined([long, short]).layers[3]
    assert attention.keys_bgld.isfinite().all() and attention.values_bgld.isfinite().all()


def test_keys_take_no_more_room_than_a_prompt_needs_and_are_seldom_copied():
    model = NemotronH.random(PARENT)
    cache, short = model.init_cache(2), model.init_cache(1)
    model(torch.ones(2, 30, dtype=torch.long), cache=cache)
    model(torch.ones(1, 7, dtype=torch.long), cache=short)
    assert cache.layers[3].keys_bgld.shape[2] == 30
    cache = Cache.joined([short, cache])
    attention, rooms = cache.layers[3], [30]
    assert attention.keys_bgld.shape[:3] == attention.values_bgld.shape[:3] == (3, PARENT.kv_heads, 30)
    for _ in range(31):
        model(torch.ones(3, 1, dtype=torch.long), cache=cache)
        rooms.append(attention.keys_bgld.shape[2])
    assert sorted(set(rooms)) == [30, 60, 120]
