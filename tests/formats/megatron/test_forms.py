# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the look at a pickle passes, Python's and torch's own readers read: soon, in little room, and with no call
that is not on the list."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.formats.megatron.forms import METADATA, OBJECTS
from nemo_elastic.formats.megatron.metadata import ByteRange
from nemo_elastic.formats.megatron.pickled import PickleError, read_pickle
from nemo_elastic.formats.megatron.torch_files import Item
from tests.formats.megatron.random_pickles import honest, random_pickle, sources, zipped
from tests.workers import ROOT

#: random pickles; the suite draws a part of them, `make faults` all
COUNT = 40_000
PART = 1 if os.environ.get("NEMO_ELASTIC_FUZZ") == "all" else 40
#: a module of a later Python
LATER = "ModuleNotFoundError: No module named 'pathlib._local'"


def passes(kind: str, content: bytes) -> bool:
    """Whether a file passes the look."""
    return refusal(kind, content) is None


def refusal(kind: str, content: bytes) -> str | None:
    """Why it does not."""
    try:
        look(kind, content)
    except PickleError as refused:
        assert 0 < len(str(refused)) < 400 and "\n" not in str(refused)
        return str(refused)
    return None


def look(kind: str, content: bytes) -> Any:
    if kind == "metadata":
        return read_pickle(content, METADATA)
    item = Item(io.BytesIO(content), ByteRange("file", 0, len(content)))
    return item.read(OBJECTS)


def read_all(files: list[tuple[str, bytes]], place: Path) -> list[str]:
    """What torch makes of each, in a process of its own that ends where one of them hangs or does harm."""
    (place / "files").write_bytes(pickle.dumps(files))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.formats.megatron.random_pickles", str(place / "files")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    return [line.partition(" ")[2] for line in lines]


def test_what_passes_is_read_soon_in_little_room_and_without_a_call_beside_the_list(tmp_path: Path) -> None:
    draw, (metadata, objects) = random.Random(11), sources()
    files = set()
    while len(files) < COUNT // PART:
        kind, trees = draw.choice([("metadata", metadata), ("object", objects)])
        content = random_pickle(draw, trees)
        files.add((kind, content if kind == "metadata" else zipped(content)))
    passed = sorted(file for file in files if passes(*file))
    assert 0.1 * len(files) < len(passed) < 0.6 * len(files)
    said = read_all(passed, tmp_path)
    assert len(said) == len(passed)
    assert [(line, passed[i][1]) for i, line in enumerate(said) if line not in ("read", LATER)] == []


def test_what_is_written_honestly_passes(tmp_path: Path) -> None:
    files = honest()
    assert all(look(*file) for file in files)
    assert read_all(files, tmp_path) == ["read"] * len(files)


def test_the_reader_of_the_test_sees_a_call_and_a_want_of_memory(tmp_path: Path) -> None:
    """So that the tests above can fail."""
    calls, fills = b"\x80\x04cos\ngetpid\n)R.", b"\x80\x04Nr\xff\xff\xff\x7f."
    ran, filled = read_all([("metadata", calls), ("metadata", fills)], tmp_path)
    assert ran.startswith("ran [") and "getpid" in ran and filled.startswith("MemoryError")


@pytest.mark.long
def test_the_reader_of_the_test_sees_a_want_of_time(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="-27"):  # SIGPROF
        read_all([("metadata", bomb("a key"))], tmp_path)


# ------------------------------------------------------------------ what passed once

_DOUBLED = b"K\x01" + b"\x94h\x00\x86" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(1, 60))


def bomb(what: str) -> bytes:
    """A value that refers to another twice, sixty times over, where it has to be hashed or compared."""
    before, behind = {
        "a key": (b"}", b"K\x01s"),
        "a set": (b"\x8f(", b"\x90"),
        "an enum": (b"ctorch.distributed.checkpoint.planner\nWriteItemType\n", b"\x85R"),
        "a layout": (b"ctorch.serialization\n_get_layout\n", b"\x85R"),
        "a device": (b"ctorch\ndevice\n", b"\x85R"),
        "a value": (b"]", b"a"),
    }[what]
    return b"\x80\x04" + before + _DOUBLED + behind + b"."


@pytest.mark.parametrize("what", ["a key", "a set", "an enum", "a layout", "a device", "a value"])
def test_a_value_without_end_where_it_is_hashed_or_walked(what: str) -> None:
    for kind, content in (("metadata", bomb(what)), ("object", zipped(bomb(what)))):
        assert not passes(kind, content)


class State:
    """An array whose dtype is of its own making."""

    def __init__(self, state: Any, code: str = "u4", array: bool = True) -> None:
        self.state, self.code, self.array = state, code, array

    def __reduce__(self) -> Any:
        return np.dtype, (self.code, False, True), self.state


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", None, -1, -1, 0), (3, "<", None, None, None, 4, 1, 27), (3, "<", None, None, None, -1, -1, 63),
        (4, "<", None, None, None, -1, -1, 0, {}), (3, ">", None, None, None, -1, -1, 0),
        (3, "<", None, ("a",), {"a": 1}, -1, -1, 0), (True, "<", None, None, None, -1, -1, 0), None, {}, (),
    ],
)  # fmt: skip
def test_a_dtype_has_the_state_that_numpy_gives_it(state: Any) -> None:
    file = io.BytesIO()
    torch.save({"a": State(state)}, file)
    assert passes("object", file.getvalue()) is (state is None)  # which is none


def array_pickle(shape: bytes, content: bytes, code: bytes = b"u4") -> bytes:
    dtype = b"cnumpy\ndtype\nX" + len(code).to_bytes(4, "little") + code + b"\x89\x88\x87R"
    begun = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"\x80\x02" + begun + b"(K\x01" + shape + dtype + b"\x89C" + bytes([len(content)]) + content + b"tb."


def test_an_array_has_the_values_that_it_holds() -> None:
    assert passes("object", zipped(array_pickle(b"K\x02\x85", bytes(8))))
    for shape in (
        b"K\x03\x85",
        b"K\x01\x85",
        b"J\xff\xff\xff\xff\x85",
        b"K\x02K\x02\x86",
        b"]",
        b"K\x01K\x01K\x01\x87\x85",
    ):
        assert not passes("object", zipped(array_pickle(shape, bytes(8))))
    assert not passes("object", zipped(array_pickle(b"K\x02\x85", bytes(8), b"O8")))


def test_many_records_do_not_hold_one_mapping_each(tmp_path: Path) -> None:
    """A state is copied into each record: 116 KiB were 1.5 GB."""
    named = b"(ctorch.distributed.checkpoint.metadata\nMetadataIndex\n\x94"
    mapping = b"}(" + b"".join(b"X\x05\x00\x00\x00%05dN" % i for i in range(5000)) + b"u\x94"
    content = b"\x80\x04" + named + mapping + b"h\x00)\x81h\x01b" * 8000 + b"t."
    assert len(content) < 2**17 and "sets the state of a MetadataIndex" in str(refusal("metadata", content))


@pytest.mark.parametrize(
    "copied", [b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R", b"cpathlib\nPosixPath\nh\x00\x85R"]
)
def test_many_calls_do_not_copy_one_text_each(copied: bytes) -> None:
    text = b"X\xa0\x0f\x00\x00" + b"a" * 4000 + b"\x94"
    assert passes("object", zipped(b"\x80\x04(" + text + copied * 3 + b"t."))
    assert "copies much more" in str(refusal("object", zipped(b"\x80\x04(" + text + copied * 3000 + b"t.")))


def test_places_that_nobody_can_tell_apart_are_few() -> None:
    """Hashes of tuples of numbers can be made equal: a mapping of them takes the square of their number."""

    def index(offsets: tuple[int, ...]) -> bytes:
        size = b"ctorch\nSize\n(" + b"".join(b"\x8a\x09" + n.to_bytes(9, "little") for n in offsets) + b"t\x85R"
        fields = b"}(X\x03\x00\x00\x00fqnX\x01\x00\x00\x00aX\x06\x00\x00\x00offset" + size + b"u"
        return b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n)\x81" + fields + b"bN"

    def mapping(offsets: list[tuple[int, ...]]) -> bytes:
        return b"\x80\x04}(" + b"".join(map(index, offsets)) + b"u."

    alike = alike_tuples(40)
    assert len({hash(one) for one in alike}) == 1 and len(set(alike)) == 40
    assert passes("metadata", mapping([(i, 0) for i in range(40)]))
    assert "hard to tell apart" in str(refusal("metadata", mapping(alike)))


def alike_tuples(count: int) -> list[tuple[int, int]]:
    """Pairs of numbers with the same hash: the second undoes what the first has done, see Objects/tupleobject.c."""
    word, one, two = 2**64, 11400714785074694791, 14029467366897019727
    begin, actual, wanted = 2870177450012600261, [], 12345

    def mixed(acc: int) -> int:
        return (acc << 31 | acc >> 33) % word * one % word

    for first in range(10_000):
        acc = mixed((begin + first * two) % word)
        before = wanted * pow(one, -1, word) % word
        before = (before >> 31 | before << 33) % word
        second = (before - acc) * pow(two, -1, word) % word
        if second < 2**61 - 1:
            actual.append((first, second))
        if len(actual) == count:
            break
    return actual


@pytest.mark.parametrize("count", [13, 0, 2**40])
def test_values_beside_a_pickle_are_as_many_as_it_says(count: int) -> None:
    """A reader that believes it gives what lies behind them in memory."""
    names = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((%sK\x0ctQK\x00K\x0c\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR."
    )
    good = b"\x80\x02" + tensor % names
    number = b"\x8a\x08" + count.to_bytes(8, "little")
    assert passes("object", zipped(good))
    assert not passes("object", zipped(good.replace(b"K\x0ctQ", number + b"tQ")))
    assert not passes("object", zipped(good.replace(b"K\x0c\x85", b"K\x0d\x85")))
    assert not passes("object", zipped(good.replace(b"K\x01\x85", b"K\x02\x85")))
    assert not passes("object", zipped(good.replace(b"K\x00K\x0c", b"K\x01K\x0c")))
