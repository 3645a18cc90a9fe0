# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What stays of a tensor, in order, and what is read for it; in another dtype its words are those that torch makes."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

from nemo_elastic.core.prefix import BlockedPrefix, Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats import tensor
from nemo_elastic.formats.dtypes import ITEMSIZE, check_convertible, convert, parse_dtype, word
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.writing import SINGLE, write_weights
from nemo_elastic.formats.tensor import SPAN, Extent, Handle, Tensor

ROWS, COLUMNS = 48, 16
ROW = COLUMNS * 4
WORDS = np.arange(ROWS * COLUMNS, dtype=np.uint32).reshape(ROWS, COLUMNS)
#: rows 0-5, 12-17, 24-29 and 36-41, and columns 0-7
KEPT = (Selection((BlockedPrefix(ROWS, 4).grid(24),)), Selection((BlockedPrefix(COLUMNS).grid(8),)))
ROWS_KEPT = [i for i in range(ROWS) if i % 12 < 6]


@pytest.fixture
def raw(tmp_path):
    """The words in a file, behind another tensor."""
    write_weights({tmp_path: {"a": Tensor.of(np.zeros(3, np.uint32)), "b": Tensor.of(WORDS)}})
    return open_shard(tmp_path / SINGLE)["b"]


@pytest.fixture
def asked(monkeypatch):
    """First and last byte of a tensor's reads."""
    seen: list[tuple[int, int]] = []
    original = Extent.read

    def read(self, start, stop):
        seen.append((start, stop))
        return original(self, start, stop)

    monkeypatch.setattr(Extent, "read", read)
    return seen


@pytest.mark.parametrize(("span", "gap"), [(1, 0), (4 * ROW, 6 * ROW), (10**6, 0), (10**6, 6 * ROW)])
def test_what_stays_is_read_once_and_gaps_only_where_they_are_small(raw, asked, span, gap, monkeypatch):
    monkeypatch.setattr(tensor, "GAP", gap)
    monkeypatch.setattr(tensor, "SPAN", span)
    given = list(raw.take(KEPT).pieces())
    np.testing.assert_array_equal(np.concatenate(given), WORDS[ROWS_KEPT, :8])
    read = [i for start, stop in asked for i in range(start // ROW, stop // ROW)]
    assert len(read) == len(set(read)) and set(read) >= set(ROWS_KEPT)
    assert max(stop - start for start, stop in asked) <= max(span, ROW)
    together = gap and span > ROWS * ROW
    assert read == ([*range(42)] if together else ROWS_KEPT)


def test_without_reads_at_a_place_the_mapped_pages_serve(raw, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(np.concatenate(list(raw.take(KEPT).pieces())), WORDS[ROWS_KEPT, :8])


def test_a_file_that_becomes_shorter_is_reported(raw):
    os.truncate(raw.extent.path, raw.extent.stop - ROW)
    with pytest.raises(ElasticError, match=r"model\.safetensors: ends inside a tensor"):
        list(raw.pieces())


# ------------------------------------------------------------------ another dtype

FLOATS = ("F32", "F16", "BF16")


def every_word(dtype: str) -> np.ndarray:
    """All words of two bytes; of four those of all upper halves, with lower halves at and around a tie."""
    short = np.arange(2**16, dtype=np.uint32)
    if ITEMSIZE[dtype] == 2:
        return short.astype(word(dtype))
    return np.concatenate([short << 16 | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(word(dtype))


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_words_are_those_that_torch_makes(source: str, target: str) -> None:
    words = every_word(source)
    there = Tensor.of_words(source, words).torch()
    wanted = there.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[target])
    fits = (torch.isinf(wanted) == torch.isinf(there)).numpy()
    actual = convert(words[fits], source, target)
    assert actual.dtype == word(target)
    number = ~torch.isnan(wanted).numpy()[fits]
    assert np.array_equal(actual[number], Tensor.of(wanted).words[fits][number])
    assert np.isnan(Tensor.of_words(target, actual).numpy()[~number]).all() and (~number).any()
    assert fits.all() == ((source, target) not in (("F32", "F16"), ("BF16", "F16"), ("F32", "BF16")))
    if not fits.all():
        for large in (words[~fits][:1], words[~fits][-1:]):
            with pytest.raises(OverflowError):
                convert(large, source, target)


def test_pieces_are_as_small_as_they_were() -> None:
    raw = Tensor.of(np.linspace(-3, 3, 3 * SPAN, dtype=np.float32).reshape(-1, 64))
    part = raw.cast("BF16", "some")
    assert part.shape == raw.shape and part.dtype == "BF16" and part.root is raw.root
    pieces = list(part.pieces())
    assert len(pieces) == 12 and max(piece.nbytes for piece in pieces) <= SPAN / 2
    assert np.array_equal(np.concatenate(pieces), part.words)
    assert raw.cast("F32", "some") is raw and raw.cast(None, "some") is raw


def test_what_is_no_dtype_or_cannot_be_converted() -> None:
    assert parse_dtype(None) is None and parse_dtype("fp32") == "F32"
    with pytest.raises(ElasticError, match="dtype: 'int8' is not allowed; one of bf16, fp16, fp32"):
        parse_dtype("int8")
    check_convertible("fp16", "a", "F64")
    with pytest.raises(ElasticError, match="'fp16' is not allowed; tensor 'a' is stored in F8_E4M3; only F64, F32, "):
        check_convertible("fp16", "a", "F8_E4M3")


def test_a_handle_that_there_is_not_is_not_closed(tmp_path, monkeypatch):
    """As where a process has as many files open as it may."""
    left = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Handle(-1)
    with (tmp_path / "file").open("wb") as file:
        handle = Handle(file.fileno())
        number = handle.number
        os.fstat(number)
        del handle
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    assert left == []
