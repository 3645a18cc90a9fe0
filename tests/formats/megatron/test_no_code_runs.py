# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the pickles of a checkpoint name, none of it is called: not from `.metadata`, not from objects."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import io
from collections import OrderedDict
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint
from torch.distributed.checkpoint.planner import WriteItemType

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.metadata import RECORDS, ByteRange, PickleError, Record, _Reader
from nemo_elastic.formats.megatron.stored import read_shapes
from nemo_elastic.formats.megatron.torch_files import load_object
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors
from tests.hosts.nemo.poison import with_call, with_template

RECORD = b"ctorch.distributed.checkpoint.metadata\nStorageMeta\n"


def saved(value: Any) -> bytes:
    """What torch.save makes of a value."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def looked_at(content: bytes) -> Any:
    """What an object of a checkpoint with these bytes becomes."""
    return load_object(io.BytesIO(content), ByteRange("file", 0, len(content)))


class Calls:
    """Unpickled, it is a call; what that makes gets a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = function, arguments, state

    def __reduce__(self) -> Any:
        return self.call


# ------------------------------------------------------------------ what is taken


def test_all_that_the_metadata_becomes_is_values_and_records(tmp_path: Path) -> None:
    folder = store(tmp_path / "one", PARENT, PARENT.full, random_tensors(PARENT))
    left, seen = [_Reader((folder / "weights" / ".metadata").read_bytes()).load()], 0
    while left:
        one = left.pop()
        seen += 1
        if isinstance(one, Record):
            left += [one.made, vars(one)]
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            left += one
        else:
            assert one is None or isinstance(one, (str, int, torch.dtype)), one
    assert seen > 1000


def test_objects_that_nemo_and_megatron_core_save_are_taken() -> None:
    value = {
        "rng": np.random.RandomState(1).get_state(), "path": PosixPath("a/b"), "device": torch.device("cpu"),
        "state": {"step": 3, "lr": 1e-3, "none": None}, "size": torch.Size([2]), "tensor": torch.arange(3),
        "buckets": [{(torch.bfloat16, torch.float32): [10, 20]}], "extra": io.BytesIO(b"abc"), "text": b"\xff" * 9,
        "ordered": OrderedDict(a=1),
    }  # fmt: skip
    actual = looked_at(saved(value))
    assert actual["state"] == value["state"] and actual["buckets"] == value["buckets"]
    assert torch.equal(actual["tensor"], value["tensor"]) and actual["extra"].read() == b"abc"


def test_every_record_only_stores_what_it_is_given() -> None:
    """megatron-core's own reader looks up the names that passed, and makes of them what the pickle says."""
    seen = 0
    for module, names in RECORDS.items():
        for name in names:
            try:
                actual = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError):  # of another release of Python, torch or megatron-core
                continue
            seen += 1
            if module.startswith("pathlib") or actual is torch.serialization._get_layout:
                continue
            assert dataclasses.is_dataclass(actual) or issubclass(actual, enum.Enum), name
            assert "__post_init__" not in vars(actual) and "__reduce__" not in vars(actual), name
    assert seen > 10


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RECORD + b"N}\x8c\x01aNs\x86b.", "missing 1 required"),
        # a member of an enum is everybody's, too
        (b"ctorch.distributed.checkpoint.planner\nWriteItemType\nK\x01\x85R}\x8c\x01aNsb.", "did not make"),
        (b"ctorch\nSize\nN}\x8c\x01aNs\x86b.", None),
        (b"ctorch\nfloat32\nN}\x8c\x01aNs\x86b.", None),
    ],
)
def test_what_others_use_is_not_changed(content: bytes, words: str | None) -> None:
    with pytest.raises(Exception, match=words):
        _Reader(b"\x80\x04" + content).load()
    assert not hasattr(WriteItemType(1), "a") and not any(
        hasattr(c, "a") for c in (Record, torch.Size, OrderedDict, torch.float32)
    )


_OWN = (3, "<", None, None, None, -1, -1, 63)


@pytest.mark.parametrize(
    "value",
    [
        Calls(np.dtype, "u4", False, True, state=_OWN),
        Calls(np.dtype, "O8", False, True), Calls(np.dtype, [("a", "O")]),
        Calls(np.dtype, "u4", False, True, state=(4, "<", None, None, None, -1, -1, 0, {})),
    ],
)  # fmt: skip
def test_a_dtype_has_the_state_that_numpy_gives_it(value: Calls) -> None:
    """With flags of its own numpy takes numbers for addresses."""
    looked_at(saved(Calls(np.dtype, "u4", False, True, state=(*_OWN[:-1], 0))))
    with pytest.raises(PickleError, match="that numpy does not define"):
        looked_at(saved({"a": value}))


# ------------------------------------------------------------------ the attacks


def poisoned(folder: Path, how: Any) -> Path:
    checkpoint = store(folder / "one", PARENT, PARENT.full, random_tensors(PARENT))
    path = checkpoint / "weights" / ".metadata"
    path.write_bytes(how(path.read_bytes(), folder / "ran"))
    return checkpoint


@pytest.mark.parametrize("name", ["builtins eval", "functools partial", "torch os.mkdir"])
def test_a_name_that_is_not_listed_is_refused(name: str) -> None:
    module, function = name.split()
    with pytest.raises(PickleError, match=f"^it names {module}.{function}$"):
        _Reader(b"\x80\x04" + f"c{module}\n{function}\n".encode() + b".").load()


ATTACKS = {
    "a template": with_template,
    "a folder": lambda p, place: with_call(p, "os mkdir", str(place)),
    "a hidden import": lambda p, place: with_call(p, "torch.distributed.checkpoint.filesystem os.mkdir", str(place)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_metadata_runs_nothing(tmp_path: Path, attack: str) -> None:
    """The honest pickle stands behind it: who runs it notices nothing."""
    checkpoint = poisoned(tmp_path, ATTACKS[attack])
    with pytest.raises(ElasticError, match=r"weights/.metadata: not a checkpoint's metadata \(it names ") as caught:
        read_shapes(checkpoint)
    assert "\n" not in caught.value.message
    assert not (tmp_path / "ran").exists()
