# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces: what stays, in order, and what is asked of the disk before its turn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_elastic.core.prefix import BlockedPrefix, Selection
from nemo_elastic.formats import pieces
from nemo_elastic.formats.hf.safetensors_io import open_shard
from nemo_elastic.formats.hf.shards import SINGLE, NewTensor, write_weights
from nemo_elastic.formats.pieces import Pieces
from nemo_elastic.formats.raw import Extent, Raw

ROWS, COLUMNS = 48, 16
ROW = COLUMNS * 4
WORDS = np.arange(ROWS * COLUMNS, dtype=np.uint32).reshape(ROWS, COLUMNS)
#: rows 0-5, 12-17, 24-29 and 36-41, and columns 0-7
KEPT = (Selection((BlockedPrefix(ROWS, 4).grid(24),)), Selection((BlockedPrefix(COLUMNS).grid(8),)))


class Disk(Extent):
    """An extent that notes what is asked for."""

    def __init__(self) -> None:
        super().__init__(Path("shard"), 0, WORDS.nbytes, SimpleNamespace())  # type: ignore[arg-type]
        object.__setattr__(self, "asked", [])

    def want(self, start: int, stop: int) -> None:
        self.asked.append((start, stop))


@pytest.mark.parametrize("span", [1, ROW, 4 * ROW, 10**6])
def test_only_what_stays_is_asked_for_and_a_bounded_way_ahead(span, monkeypatch):
    ahead = 8 * ROW
    monkeypatch.setattr(pieces, "AHEAD", ahead)
    disk, kept, rows = Disk(), [i for i in range(ROWS) if i % 12 < 6], max(1, span // ROW)
    given = []
    for piece in Pieces(Raw("U32", WORDS, disk), KEPT, span)():
        given.append(piece)
        taken = sum(map(len, given))
        asked = [i for start, stop in disk.asked for i in range(start // ROW, stop // ROW)]
        assert asked == kept[: len(asked)]
        assert len(asked) >= min(len(kept), taken + ahead // ROW)
        assert len(asked) < taken + ahead // ROW + rows
    np.testing.assert_array_equal(np.concatenate(given), WORDS[kept, :8])
    assert disk.asked[-1][1] == 42 * ROW


def test_a_mapped_file_is_asked_for_from_whole_pages(tmp_path):
    words = np.random.default_rng(0).integers(0, 2**31, (5000, 3), dtype=np.uint32)
    entries = [NewTensor(name, "U32", words.shape, lambda: [words]) for name in ("a", "b")]
    write_weights({tmp_path: entries})
    for raw in open_shard(tmp_path / SINGLE).values():
        raw.extent.want(0, raw.nbytes)
        raw.extent.want(raw.nbytes - 1, raw.nbytes)
        some = Selection((BlockedPrefix(5000, 5).grid(3000),))
        np.testing.assert_array_equal(np.concatenate(list(Pieces(raw, (some,), 999)())), words[some.indices])


def test_a_small_tensor_in_stripes_is_one_piece():
    """Every piece is handed from thread to thread: thousands of tensors would have several each for nothing."""
    (piece,) = Pieces(Raw("U32", WORDS), KEPT)()
    np.testing.assert_array_equal(piece, WORDS[[i for i in range(ROWS) if i % 12 < 6], :8])
    found = [len(piece) for piece in Pieces(Raw("U32", WORDS), KEPT, 13 * ROW)()]
    assert found == [12, 12]


def test_what_is_wanted_before_its_turn_is_the_first_of_what_stays():
    disk = Disk()
    kept = Pieces(Raw("U32", WORDS, disk), KEPT, span=4 * ROW)
    assert kept.want(8 * ROW) == 8 * ROW and disk.asked == [(0, 6 * ROW), (12 * ROW, 14 * ROW)]
    disk.asked.clear()
    assert kept.want(10**6) == 24 * ROW and disk.asked[-1] == (36 * ROW, 42 * ROW)
    disk.asked.clear()
    assert Pieces(Raw("U32", WORDS, disk), KEPT).want(10**6) == 42 * ROW and disk.asked == [(0, 42 * ROW)]
    assert Pieces(Raw("U32", WORDS), KEPT).want(10**6) == 0
    assert Pieces(Raw("U32", WORDS[:0], disk)).want(10**6) == 0
