# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Checksums are those that anybody would compute, and `verify` finds a flipped bit wherever it is."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.shards import SINGLE
from nemo_elastic.slicing.verification import Report, verify
from tests.shapes import PARENT as SHAPE

from .helpers import random_values, write

PARENT = replace(SHAPE, hidden=48, ffn=128, vocab=600)
SMALL = PARENT.uniform([0, 1, 3, 4], hidden=40, ffn=64, mamba_heads=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    return write(place / "family", PARENT, {"small": SMALL}, tensors=random_values(PARENT))


@pytest.fixture
def source(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "source"))


def flip(folder: Path, at: int, bit: int = 3) -> str:
    """Flip one bit of the weights, counted from the first tensor's first byte; give the tensor's name."""
    path = folder / SINGLE
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + at] ^= 1 << bit
    path.write_bytes(content)
    shard = open_shard(path)
    return next(n for n, raw in shard.items() if raw.extent and raw.extent.start <= start + at < raw.extent.stop)


def wrong(report: Report) -> dict[str, str]:
    return {check.name: check.figure for check in report.checks if check.ok is False}


def test_a_flipped_bit_is_found_wherever_it_is(source):
    """The first bit of each tensor, its last, and one between them."""
    rng, size = random.Random(0), 8 + int.from_bytes((source / SINGLE).read_bytes()[:8], "little")
    for i, tensor in enumerate(open_shard(source / SINGLE).values()):
        assert tensor.extent is not None
        first, last = tensor.extent.start - size, tensor.extent.stop - size - 1
        at = (first, last, rng.randint(first, last))[i % 3]
        name = flip(source, at, i % 8)
        found = wrong(verify(source, forward=False))
        assert found["checksums"] == f"1 tensors are not what was written, the first is {name}"
        flip(source, at, i % 8)
    assert verify(source, forward=False).ok


def test_a_member_that_a_changed_family_would_not_give_is_none_of_its_cuts(source, tmp_path):
    slice_checkpoint(source, tmp_path / "small", member="small")
    flip(source, 5)
    assert list(wrong(verify(tmp_path / "small", parent=source, forward=False))) == ["cut of the parent"]


def test_a_tensor_without_checksum_is_reported(source):
    data = json.loads((source / CHECKSUMS_FILE).read_text())
    del data["tensors"]["backbone.norm_f.weight"]
    (source / CHECKSUMS_FILE).write_text(json.dumps(data))
    assert "backbone.norm_f.weight" in wrong(verify(source, forward=False))["checksums"]
    (source / CHECKSUMS_FILE).unlink()
    assert verify(source, forward=False).ok


def test_members_have_checksums_of_their_own(whole, tmp_path):
    slice_checkpoint(whole, tmp_path / "small", member="small")
    for folder in (whole, tmp_path / "small"):
        content = json.loads((folder / CHECKSUMS_FILE).read_text())
        assert content["algorithm"] == "crc32"
        tensors = open_shard(folder / SINGLE)
        assert content["tensors"] == {n: f"{zlib.crc32(t.words.tobytes()):08x}" for n, t in sorted(tensors.items())}
        digests = content["files"]
        assert set(digests) == {"config.json", "generation_config.json"}
        assert all(hashlib.sha256((folder / n).read_bytes()).hexdigest() == digest for n, digest in digests.items())
