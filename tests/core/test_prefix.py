# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""BlockedPrefix, Grid and Selection: index sets, slices, scatter, shards, and their agreement with each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.core.prefix import ONE, BlockedPrefix, Grid, Selection
from nemo_elastic.errors import ElasticError


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    kept = tuple(draw(st.integers(1, n)) for n in shape)
    return Grid(shape, kept)


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    return Selection(tuple(draw(st.lists(grids(), min_size=1, max_size=4))), outer=draw(st.just(ONE) | grids()))


@pytest.mark.parametrize("k", [0, 15, True])
def test_a_width_off_the_blocks_is_refused(k: object) -> None:
    with pytest.raises(ElasticError, match=r"heads: .* is not allowed; allowed are 3 to 12 in multiples of 3"):
        BlockedPrefix(12, 3, "heads").check(k)  # pyright: ignore[reportArgumentType]


@given(selections(), st.sampled_from([0, 1]))
def test_take_equals_indexing(s: Selection, dim: int) -> None:
    shape = [5, 5]
    shape[dim] = s.size
    t = torch.arange(5 * s.size).reshape(shape)
    want = t.index_select(dim, torch.from_numpy(s.indices))
    assert torch.equal(s.take(t, dim), want)
    assert np.array_equal(s.take(t.numpy(), dim), want.numpy())


@given(selections(), st.sampled_from([0, 1]))
def test_add_writes_exactly_the_kept(s: Selection, dim: int) -> None:
    shape, kept = [3, 3], [3, 3]
    shape[dim], kept[dim] = s.size, s.kept_size
    piece = torch.randn(kept)
    full = torch.zeros(shape)
    s.add_(full, piece, dim)
    assert torch.equal(s.take(full, dim), piece)
    assert torch.count_nonzero(full) == torch.count_nonzero(piece)
    s.add_(full, piece, dim)
    assert torch.equal(s.take(full, dim), 2 * piece)


@given(selections())
def test_runs_and_mask_agree_with_indices(s: Selection) -> None:
    joined = np.concatenate([np.arange(a, b) for a, b in s.runs])
    assert np.array_equal(joined, s.indices)
    assert np.array_equal(np.flatnonzero(s.mask()), s.indices)
    assert all(b < c for (_, b), (c, _) in zip(s.runs, s.runs[1:], strict=False))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.data())
def test_shards_are_equal_and_make_up_the_whole(ranks: int, per: int, size: int, data: st.DataObject) -> None:
    blocks = ranks * per
    axis = BlockedPrefix(blocks * size, blocks)
    k = blocks * data.draw(st.integers(1, size))
    whole = Selection((axis.grid(k),))
    local = whole.shard(ranks)
    n = axis.size // ranks
    assert np.array_equal(whole.indices, np.concatenate([local.indices + r * n for r in range(ranks)]))


@given(st.integers(1, 4), st.integers(1, 2), st.booleans(), st.data())
def test_a_rank_keeps_of_its_share_what_the_whole_keeps_of_it(
    ranks: int, per: int, interleaved: bool, data: st.DataObject
) -> None:
    shapes = [data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(data.draw(st.integers(1, 3)))]
    kept = [data.draw(st.tuples(*(st.integers(1, n) for n in shape))) for shape in shapes]
    if interleaved and ranks * per > 1:
        blocks, inner = ranks * per, data.draw(st.integers(1, 3))
        outer = Grid((blocks, inner), (blocks, data.draw(st.integers(1, inner))))
        whole = Selection(tuple(Grid(n, k) for n, k in zip(shapes, kept, strict=True)), outer)
    else:
        blocks = (ranks * per,)
        whole = Selection(tuple(Grid(blocks + n, blocks + k) for n, k in zip(shapes, kept, strict=True)))
    shares = whole.shares(ranks)
    assert np.array_equal(np.sort(shares.reshape(-1)), np.arange(whole.size))
    for share in shares:
        assert np.array_equal(share[whole.shard(ranks).indices], np.intersect1d(share, whole.indices))


def test_a_share_is_of_whole_blocks() -> None:
    with pytest.raises(ElasticError, match="tensor_model_parallel_size: 2 is not allowed; must divide 3 blocks"):
        Selection((Grid((3, 2), (3, 1)),)).shares(2)


@given(st.integers(1, 4), st.integers(1, 5), st.randoms())
def test_storage_order_makes_the_best_channels_the_prefix(blocks: int, per: int, random: object) -> None:
    order = np.arange(blocks * per)
    random.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    axis = BlockedPrefix(blocks * per, blocks)
    layout = axis.order_to_layout(order)
    for k in range(blocks, axis.size + 1, blocks):
        kept = layout[Selection((axis.grid(k),)).indices]
        assert set(kept.tolist()) == set(order[:k].tolist())


@given(selections(), st.integers(1, 4))
def test_blocks_are_kept_whole_or_not_at_all(kept: Selection, size: int) -> None:
    blocks = [set(range(at, at + size)) for at in range(0, kept.size, size)]
    own = set(kept.indices.tolist())
    whole = kept.size % size == 0 and all(block <= own or not block & own for block in blocks)
    blocks = kept.in_blocks(size)
    assert (blocks is not None) == whole
    if blocks is not None:
        each = blocks.indices[:, None] * size + np.arange(size)
        assert each.reshape(-1).tolist() == kept.indices.tolist()
