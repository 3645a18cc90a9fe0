# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces: what stays, in order, and what is read for it."""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest

from nemo_elastic.core.prefix import BlockedPrefix, Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats import pieces
from nemo_elastic.formats.checksums import ExpectedTensor, Sums
from nemo_elastic.formats.hf.safetensors_io import open_shard
from nemo_elastic.formats.hf.shards import SINGLE, NewTensor, write_weights
from nemo_elastic.formats.pieces import Pieces
from nemo_elastic.formats.raw import Extent, Raw

ROWS, COLUMNS = 48, 16
ROW = COLUMNS * 4
WORDS = np.arange(ROWS * COLUMNS, dtype=np.uint32).reshape(ROWS, COLUMNS)
#: rows 0-5, 12-17, 24-29 and 36-41, and columns 0-7
KEPT = (Selection((BlockedPrefix(ROWS, 4).grid(24),)), Selection((BlockedPrefix(COLUMNS).grid(8),)))
ROWS_KEPT = [i for i in range(ROWS) if i % 12 < 6]


@pytest.fixture
def raw(tmp_path):
    """The words in a file, behind another tensor."""
    before = NewTensor("a", "U32", (3,), lambda: [np.zeros(3, np.uint32)])
    write_weights({tmp_path: [before, NewTensor("b", "U32", WORDS.shape, lambda: [WORDS])]})
    return open_shard(tmp_path / SINGLE)["b"]


@pytest.fixture
def asked(monkeypatch):
    """First and last byte of a tensor's reads."""
    found: list[tuple[int, int]] = []
    original = Extent.read

    def read(self, start, stop, *into):
        found.append((start, stop))
        return original(self, start, stop, *into)

    monkeypatch.setattr(Extent, "read", read)
    return found


@pytest.mark.parametrize("span", [1, ROW, 4 * ROW, 10**6])
@pytest.mark.parametrize("gap", [0, 6 * ROW])
def test_what_stays_is_read_once_and_gaps_only_where_they_are_small(raw, asked, span, gap, monkeypatch):
    monkeypatch.setattr(pieces, "GAP", gap)
    given = list(Pieces(raw, KEPT, span)())
    np.testing.assert_array_equal(np.concatenate(given), WORDS[ROWS_KEPT, :8])
    read = [i for start, stop in asked for i in range(start // ROW, stop // ROW)]
    assert len(read) == len(set(read)) and set(read) >= set(ROWS_KEPT)
    assert max(stop - start for start, stop in asked) <= max(span, ROW)
    together = gap and span > ROWS * ROW
    assert read == ([*range(42)] if together else ROWS_KEPT)


def test_a_mapped_file_and_memory_give_the_same(tmp_path):
    words = np.random.default_rng(0).integers(0, 2**31, (5000, 3), dtype=np.uint32)
    entries = [NewTensor(name, "U32", words.shape, lambda: [words]) for name in ("a", "b")]
    write_weights({tmp_path: entries})
    some = Selection((BlockedPrefix(5000, 5).grid(3000),))
    for raw in (*open_shard(tmp_path / SINGLE).values(), Raw("U32", words)):
        np.testing.assert_array_equal(np.concatenate(list(Pieces(raw, (some,), 999)())), words[some.indices])


def test_without_reads_at_a_place_the_mapped_pages_serve(raw, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(np.concatenate(list(Pieces(raw, KEPT)())), WORDS[ROWS_KEPT, :8])


def test_a_small_tensor_in_stripes_is_one_piece():
    """Every piece is handed from thread to thread: thousands of tensors would have several each for nothing."""
    (piece,) = Pieces(Raw("U32", WORDS), KEPT)()
    np.testing.assert_array_equal(piece, WORDS[ROWS_KEPT, :8])
    found = [len(piece) for piece in Pieces(Raw("U32", WORDS), KEPT, 13 * ROW)()]
    assert found == [12, 12]


@pytest.mark.parametrize("part_rows", [1, 5, 8, ROWS])
@pytest.mark.parametrize("span", [ROW, 7 * ROW, 10**6])
def test_parts_are_read_to_their_ends_and_none_beside_them(raw, asked, part_rows, span, monkeypatch):
    monkeypatch.setattr(pieces, "GAP", 0)
    size, content = part_rows * ROW, WORDS.tobytes()
    parts = "".join(f"{zlib.crc32(content[i : i + size]):08x}" for i in range(0, len(content), size))
    sums = Sums(f"{zlib.crc32(content):08x}", parts if part_rows < ROWS else "", size)
    known = Raw("U32", raw.words, raw.extent, ExpectedTensor("b", sums))
    np.testing.assert_array_equal(np.concatenate(list(Pieces(known, KEPT, span)())), WORDS[ROWS_KEPT, :8])
    read = {i // part_rows for start, stop in asked for i in range(start // ROW, stop // ROW)}
    assert read == {i // part_rows for i in ROWS_KEPT}


def test_a_file_that_becomes_shorter_is_told(raw):
    os.truncate(raw.extent.path, raw.extent.stop - ROW)
    with pytest.raises(ElasticError, match=r"model\.safetensors: ends inside a tensor"):
        list(Pieces(raw)())
