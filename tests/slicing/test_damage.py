# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Damage in a source never reaches what is cut from it with checksums that are right again."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic import slice_checkpoint
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, Checksum, ExpectedTensor, ReadCheck, Sums, read_checksums
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import MEMBER_FILE, open_shard
from nemo_elastic.formats.hf.shards import SINGLE
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.pieces import cut_tensors
from nemo_elastic.slicing.slicer import slice_members
from nemo_elastic.slicing.untrained import init_family
from nemo_elastic.slicing.verification import verify
from tests.shapes import PARENT as SHAPE

from .helpers import contents, random_values, write

PARENT = replace(SHAPE, hidden=48, ffn=128, vocab=600)
SMALL = PARENT.uniform([0, 1, 3, 4], hidden=40, ffn=64, mamba_heads=4)
PART = 4096


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A family with small parts, so that its tensors have many."""
    folder = write(
        tmp_path_factory.mktemp("whole") / "family", PARENT, {"small": SMALL}, tensors=random_values(PARENT)
    )
    with_parts(folder, PART)
    assert any(len(sums.parts) > 80 for sums in (read_checksums(folder) or {}).values())
    assert verify(folder, forward=False).ok
    return folder


def with_parts(folder: Path, size: int | None) -> None:
    """Write the checksums anew, with parts of another size; None: as version 0.1 did, without."""
    tensors, parts = {}, {}
    for name, raw in open_shard(folder / SINGLE).items():
        data = raw.words.tobytes()
        tensors[name] = f"{zlib.crc32(data):08x}"
        if size is not None and len(data) > size:
            parts[name] = "".join(f"{zlib.crc32(data[i : i + size]):08x}" for i in range(0, len(data), size))
    more = {} if size is None else {"part_bytes": size, "parts": parts}
    (folder / CHECKSUMS_FILE).write_text(json.dumps({"algorithm": "crc32", "tensors": tensors, **more}))


def flip(folder: Path, at: int, bit: int = 3) -> str:
    """Flip one bit of the weights, counted from the first tensor's first byte; give the tensor's name."""
    path = folder / SINGLE
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + at] ^= 1 << bit
    path.write_bytes(content)
    shard = open_shard(path)
    return next(n for n, raw in shard.items() if raw.extent and raw.extent.start <= start + at < raw.extent.stop)


def copied(whole: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(whole, place))


def places(whole: Path, count: int) -> Iterator[int]:
    """Bytes of the weights, the same each time: of every tensor the first, the last and some others."""
    rng, size = random.Random(0), 8 + int.from_bytes((whole / SINGLE).read_bytes()[:8], "little")
    for raw in open_shard(whole / SINGLE).values():
        assert raw.extent is not None
        first, last = raw.extent.start - size, raw.extent.stop - size - 1
        yield from sorted({first, last, *(rng.randint(first, last) for _ in range(count))})


@pytest.mark.parametrize(
    "size", [PART, pytest.param(None, marks=pytest.mark.long)], ids=["parts", "whole tensors, as 0.1 wrote"]
)
def test_a_flipped_bit_never_gets_into_a_cut(whole, tmp_path, size):
    """Wherever it is: either it is reported, or the cut is what it would be without it."""
    sound = copied(whole, tmp_path / "sound")
    with_parts(sound, size)
    slice_checkpoint(sound, tmp_path / "expect", member="small")
    expected, message, harmless = contents(tmp_path / "expect"), 0, set()
    for i, at in enumerate(places(whole, 1)):
        source = copied(sound, tmp_path / "source")
        name = flip(source, at, i % 8)
        out = tmp_path / f"out{i}"
        try:
            slice_checkpoint(source, out, member="small")
        except ElasticError as exc:
            assert exc.message.startswith(f"{source / SINGLE}: tensor {name!r} is not what was written, by ")
            assert not out.exists() and sorted(p.name for p in tmp_path.iterdir() if p.name[0] == ".") == []
            message += 1
        else:
            assert contents(out) == expected
            shutil.rmtree(out)
            harmless.add(name)
    assert message > 30
    assert any(".layers.2." in name for name in harmless)  # a layer that goes is not read
    if size is not None:
        assert any(".layers.1." in name for name in harmless)  # nor are parts of a tensor without rows that stay


def ways(source: Path, out: Path) -> dict[str, object]:
    """Everything that copies the tensors of a folder."""
    return {
        "several members": lambda: slice_members(source, out, {"a": SMALL, "b": PARENT.full}),
        "the whole": lambda: slice_checkpoint(source, out, member="full"),
        "a family": lambda: write_family(out, PARENT, open_source(source).tensors, open_source(source).family),
        "tensors": lambda: dict(cut_tensors(open_source(source), SMALL)),
        "all tensors": lambda: dict(cut_tensors(open_source(source), PARENT.full)),
    }


@pytest.mark.parametrize("way", ways(Path(), Path()))
def test_every_way_to_copy_tensors_tells(whole, tmp_path, way):
    source = copied(whole, tmp_path / "source")
    ways(source, tmp_path / "out")[way]()
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    name = "backbone.layers.3.mixer.down_proj.weight" if PARENT.pattern[3] == "-" else "backbone.embeddings.weight"
    extent = open_shard(source / SINGLE)[name].extent
    start = min(raw.extent.start for raw in open_shard(source / SINGLE).values())
    flip(source, extent.start - start)
    with pytest.raises(ElasticError, match=f"tensor '{name}' is not what was written"):
        ways(source, tmp_path / "out")[way]()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ranked", [True, False])
def test_a_damaged_parent_makes_no_family(whole, tmp_path, ranked):
    source = copied(whole, tmp_path / "source")
    for name in ("elastic.json", MEMBER_FILE):
        (source / name).unlink(missing_ok=True)
    ranking = Ranking.trivial(open_source(source).parent)
    order = ranking.orders["hidden"]
    replace(ranking, orders=ranking.orders | {"hidden": order[::-1].copy()}).save(tmp_path / "ranking")
    block = {"budgets": [{"name": "big"}, {"name": "small", "ratio": 0.8}], "axes": {"hidden": [48, 40, 32]}}
    more = {"ranking": tmp_path / "ranking"} if ranked else {}
    init_family(source, ElasticConfig.from_dict(block), tmp_path / "fine", **more)
    assert verify(tmp_path / "fine", forward=False).ok
    name = flip(source, sum(raw.nbytes for raw in open_shard(source / SINGLE).values()) // 2)
    with pytest.raises(ElasticError, match=f"tensor '{name}' is not what was written"):
        init_family(source, ElasticConfig.from_dict(block), tmp_path / "family", **more)
    assert not (tmp_path / "family").exists()


def test_verify_reports_what_a_cut_refuses(whole, tmp_path):
    source = copied(whole, tmp_path / "source")
    slice_checkpoint(source, tmp_path / "small", member="small")
    name = flip(source, 5)
    report = verify(source, forward=False)
    assert [c.name for c in report.checks if c.ok is False] == ["checksums"]
    assert report.checks[-2].figure == f"1 tensors are not what was written, the first is {name}"
    verified = verify(tmp_path / "small", parent=source, forward=False)
    assert [c.name for c in verified.checks if c.ok is False] == ["cut of the parent"]
    # one part of the file of checksums, and nothing else, is wrong
    source = copied(whole, tmp_path / "source")
    data = json.loads((source / CHECKSUMS_FILE).read_text())
    name = max(data["parts"], key=lambda n: len(data["parts"][n]))
    data["parts"][name] = data["parts"][name][:-8] + "00000000"
    (source / CHECKSUMS_FILE).write_text(json.dumps(data))
    assert not verify(source, forward=False).ok


def test_members_of_one_pass_read_once_and_trust_nothing_unread(whole, tmp_path, monkeypatch):
    """What one member has found right is not computed again; what only the other reads is."""
    counted = []
    monkeypatch.setattr("nemo_elastic.formats.checksums.ReadCheck._add", counting(counted))
    slice_members(whole, tmp_path / "once", {"full": PARENT.full})
    once = sum(counted)
    counted.clear()
    slice_members(whole, tmp_path / "both", {"small": SMALL, "full": PARENT.full, "again": SMALL})
    assert sum(counted) == once
    monkeypatch.undo()
    harmless = 0
    for i, at in enumerate(places(whole, 1)):
        source = copied(whole, tmp_path / "source")
        flip(source, at)
        with pytest.raises(ElasticError, match="is not what was written"):
            slice_members(source, tmp_path / f"out{i}", {"small": SMALL, "full": PARENT.full})
        try:
            slice_checkpoint(source, tmp_path / f"small{i}", member="small")
            harmless += 1
        except ElasticError:
            pass
    assert harmless > 3


def counting(counted: list[int]):
    """`ReadCheck._add` that notes how many parts it found right."""
    from nemo_elastic.formats.checksums import ReadCheck

    original = ReadCheck._add

    def add(self, stop):
        before = len(self._right)
        original(self, stop)
        counted.append(len(self._right) - before)

    return add


def test_a_tensor_without_checksum_is_reported(whole, tmp_path):
    source = copied(whole, tmp_path / "source")
    data = json.loads((source / CHECKSUMS_FILE).read_text())
    del data["tensors"]["backbone.norm_f.weight"]
    (source / CHECKSUMS_FILE).write_text(json.dumps(data))
    with pytest.raises(ElasticError, match=r"tensor 'backbone\.norm_f\.weight' is not what was written"):
        slice_checkpoint(source, tmp_path / "out", member="small")
    (source / CHECKSUMS_FILE).unlink()
    slice_checkpoint(source, tmp_path / "out", member="small")


def test_members_have_parts_of_their_own(tmp_path):
    """What is written has the checksums of every part and file, as anybody would compute them."""
    large = replace(SHAPE, vocab=9000, hidden=24)
    write(tmp_path / "family", large, {"small": large.uniform(hidden=16)}, tensors=random_values(large))
    slice_checkpoint(tmp_path / "family", tmp_path / "small", member="small")
    for folder in (tmp_path / "family", tmp_path / "small"):
        content = json.loads((folder / CHECKSUMS_FILE).read_text())
        digests = content.pop("files")
        assert set(digests) == {"config.json", "generation_config.json"}
        assert all(hashlib.sha256((folder / n).read_bytes()).hexdigest() == digest for n, digest in digests.items())
        with_parts(folder, 2**18)
        assert content == json.loads((folder / CHECKSUMS_FILE).read_text()) and len(content["parts"]) == 2


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=8), st.data())
def test_checksums_of_pieces_and_of_runs(content, size, cuts, data):
    """In whatever pieces bytes come, the sums are zlib's; whatever runs are read, a change in their parts is found."""
    checksum, edges = Checksum(size), sorted({0, *(min(c, len(content)) for c in cuts), len(content)})
    for start, stop in itertools.pairwise(edges):
        checksum.add(memoryview(content[start:stop]))
    sums, parts = checksum.sums, [content[i : i + size] for i in range(0, len(content), size)]
    assert sums.whole == f"{zlib.crc32(content):08x}"
    assert sums.parts == ("".join(f"{zlib.crc32(p):08x}" for p in parts) if len(parts) > 1 else "")
    runs = list(zip(edges[::2], edges[1::2]))
    sound = [(a, b) for a, b in runs if a < b]
    read(content, sums, sound)
    at = data.draw(st.integers(0, len(content) - 1)) if content else 0
    if any(a // size * size <= at < -(-b // size) * size for a, b in sound):
        with pytest.raises(ElasticError, match="x is not what was written"):
            read(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], sums, sound)


def read(content: bytes, sums: Sums, runs: list[tuple[int, int]]) -> None:
    watch = ReadCheck(np.frombuffer(content, np.uint8).data, ExpectedTensor("x", sums))
    for start, stop in runs:
        watch.reach(start, stop)
    watch.end()
