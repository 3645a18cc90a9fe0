# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing weights: dealt out to files, in one pass, with checksums, and not where there is no room."""

from __future__ import annotations

import itertools
import json
import os
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.writing import INDEX, SINGLE, plan_shards, write_weights
from nemo_elastic.formats.tensor import SPAN, Tensor
from tests.slicing.helpers import scratch


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_shards(sizes, limit):
    tensors = {str(i): Tensor.of(np.zeros(n, np.uint8)) for i, n in enumerate(sizes)}
    shards = plan_shards(tensors, limit)
    assert [name for shard in shards for name in shard] == list(tensors)
    counts = [[tensor.nbytes for tensor in shard.values()] for shard in shards]
    assert all(sum(shard) <= limit or len(shard) == 1 for shard in counts)
    assert all(sum(a) + b[0] > limit for a, b in itertools.pairwise(counts))


def test_a_source_that_gives_too_little_or_too_much_is_a_bug_that_shows(tmp_path):
    for words in (np.zeros(3, "<u4"), np.zeros(5, "<u4"), np.zeros(4, "<u8")):
        tensor = Tensor.made("F32", (4,), lambda first, last, words=words: words)
        with pytest.raises(RuntimeError, match="a:"):
            write_weights({tmp_path: {"a": tensor}})


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 200), st.randoms(use_true_random=False))
def test_several_folders_in_one_pass(sizes, limit, random):
    """Whatever the order of the source and the sizes of files: every folder has its tensors and their checksums."""
    with scratch() as place:
        write_weights({place: {str(i): Tensor.of(np.arange(n, dtype=np.int16) + i) for i, n in enumerate(sizes)}})
        source = open_shard(place / SINGLE)
        names = random.sample(sorted(source), len(source))
        folders, touched = {}, []
        for folder, kept in ((place / "a", names), (place / "b", names[::2])):
            folder.mkdir()
            folders[folder] = {n: touching(touched, n, source[n]) for n in kept}
        reports = []
        checksums = write_weights(folders, limit, lambda done, total: reports.append((done, total)))
        total = sum(t.nbytes for tensors in folders.values() for t in tensors.values())
        assert all(t == total for _, t in reports) and [d for d, _ in reports] == sorted(d for d, _ in reports)
        assert (reports[-1][0] if reports else 0) == total
        placed = [n for n in touched if source[n].extent]
        assert placed == sorted(placed, key=lambda n: source[n].extent.start)  # one pass from front to back
        for (folder, tensors), actual in zip(folders.items(), checksums):
            assert set(actual) == set(tensors)
            files = [SINGLE]
            if (folder / INDEX).exists():
                index = json.loads((folder / INDEX).read_text())
                files = sorted(set(index["weight_map"].values()))
                assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
            assert set(files) == {p.name for p in folder.glob("*.safetensors")}
            read = {n: r for f in files for n, r in open_shard(folder / f).items()}
            assert set(read) == set(actual)
            for name, raw in read.items():
                assert np.array_equal(raw.words, source[name].words)
                assert actual[name] == f"{zlib.crc32(source[name].words.tobytes()):08x}"


def touching(touched: list[str], name: str, tensor: Tensor) -> Tensor:
    """A tensor that notes when it is read, eight rows at a time."""

    def rows(first: int, last: int) -> np.ndarray:
        if not first:
            touched.append(name)
        return tensor.rows(first, last)

    return replace(tensor, rows=rows, span=SPAN // 8)


def test_no_room_is_reported_before_weights_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=9, f_bavail=1, f_frsize=4096))
    big = {"a": Tensor.of(np.zeros(5000, np.uint8))}
    with pytest.raises(ElasticError, match=r"no space left on the disk: 5,000 bytes are needed and 4,096 free"):
        write_weights({tmp_path: big})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 500  # headers; the caller removes its folder
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096))
    write_weights({tmp_path: big})
