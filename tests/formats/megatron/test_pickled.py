# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a pickle names, nothing of it is called: `pickled`, and what reads with it."""

from __future__ import annotations

import _codecs
import builtins
import collections
import importlib
import inspect
import io
import pickle
import pickletools
import pkgutil
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch._utils
import torch.distributed.checkpoint

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.forms import METADATA, OBJECTS, STORAGES, TENSORS
from nemo_elastic.formats.megatron.pickled import Form, Made, Name, Named, PickleError, read_pickle
from nemo_elastic.formats.megatron.stored import read_shapes
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors
from tests.hosts.nemo.poison import with_call, with_template

#: every list of names that a pickle is ever read with
LISTS: list[Mapping[Name, Form]] = [METADATA, TENSORS, OBJECTS]
ALL = {**METADATA, **OBJECTS}
PLAIN = (type(None), bool, int, float, str, bytes, tuple, list, dict)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = store(tmp_path_factory.mktemp("whole") / "one", PARENT, PARENT.full, random_tensors(PARENT))
    return (folder / "weights" / ".metadata").read_bytes()


# ------------------------------------------------------------------ what can be reached


def reached(value: Any) -> list[Any]:
    """Everything that a value holds, and itself."""
    actual, left = {id(value): value}, [value]
    while left:
        one = left.pop()
        inner: list[Any] = []
        if isinstance(one, Made):
            inner = [one.kind, one.arguments, one.state]
        elif isinstance(one, Named):
            inner = [one.kind]
        elif isinstance(one, dict):
            inner = [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            inner = list(one)
        left += [x for x in inner if id(x) not in actual]
        actual |= {id(x): x for x in inner}
    return list(actual.values())


def test_all_that_a_pickle_becomes_is_plain(whole: bytes) -> None:
    values = reached(read_pickle(whole, METADATA))
    assert {type(value) for value in values} <= {*PLAIN, Made, Named}
    assert not any(callable(value) for value in values)
    assert len(values) > 1000


def test_counts_of_buckets_have_pairs_of_dtypes_as_keys() -> None:
    """As NeMo saves a distributed optimizer by default, and version 0.1 did."""
    report = pickle.dumps([{(torch.bfloat16, torch.float32): [10, 20]}], 2)
    ((key, value),) = read_pickle(report, OBJECTS)[0].items()
    assert key == (Named(("torch", "bfloat16")), Named(("torch", "float32"))) and value == [10, 20]


@pytest.mark.parametrize("names", LISTS, ids=["metadata", "tensor", "object"])
def test_every_name_on_a_list_stays_a_name(names: Mapping[Name, Form]) -> None:
    """Each is taken through every opcode that uses a name; what comes out is a record of ours, or nothing."""
    made = 0
    for (module, name), form in names.items():
        for text in (f"c{module}\n{name}\n".encode(), _stack_global(module, name)):
            if form.value:
                assert read_pickle(b"\x80\x04" + text + b".", names) == Named((module, name))
            else:
                with pytest.raises(PickleError, match="where a value belongs"):
                    read_pickle(b"\x80\x04" + text + b".", names)
            for call in (b")", b"(K\x01t\x85", b"K\x01\x85", b"\x8c\x00\x8c\x06latin1\x86"):
                for opcode in (b"R", b"\x81"):
                    try:
                        actual = read_pickle(b"\x80\x04" + text + call + opcode + b".", names)
                    except PickleError:
                        continue
                    made += 1
                    assert (type(actual) is Made and actual.kind == (module, name)) or actual == b""
    assert made > (len(names) > 20)


def _stack_global(module: str, name: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93"


@pytest.mark.parametrize("names", LISTS, ids=["metadata", "tensor", "object"])
def test_every_name_on_a_list_is_a_record_a_value_or_a_constructor_of_one(names: Mapping[Name, Form]) -> None:
    """Python's own reader, to which megatron-core gives what has passed, would call these with any arguments.

    So all are looked up here: dataclasses and enums of torch and megatron-core, whose making only stores what it is
    given, and a few constructors that are written down.
    """
    harmless_ = {
        torch.Size, collections.OrderedDict, slice, torch.serialization._get_layout, torch.device,
        torch._utils._rebuild_tensor_v2, io.BytesIO, _codecs.encode,
        np.ndarray, np.dtype, np.zeros(0).__reduce__()[0],
    }  # fmt: skip
    seen = 0
    for module, name in names:
        try:
            actual = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):  # of another release of Python, torch or megatron-core
            continue
        seen += 1
        if isinstance(actual, torch.dtype) or actual in harmless_:
            continue
        assert isinstance(actual, type), (module, name)
        if issubclass(actual, (PurePosixPath, Path)) or module == "pathlib":
            continue
        if (module, name) in STORAGES:
            continue
        assert hasattr(actual, "__dataclass_fields__") or issubclass(actual, importlib.import_module("enum").Enum), (
            name
        )
        assert "__post_init__" not in vars(actual), name
        assert actual.__reduce__ in (object.__reduce__,) or hasattr(actual, "__members__"), name
    assert seen > 10


# ------------------------------------------------------------------ what cannot


def modules(*packages: ModuleType) -> list[ModuleType]:
    """Packages and what is below them, as far as it can be imported here."""
    seen = []
    for package in packages:
        seen.append(package)
        for info in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + ".", lambda _: None):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    seen.append(importlib.import_module(info.name))
            except Exception:  # of an extra that is not here
                continue
    return seen


def test_every_other_class_and_function_is_refused() -> None:
    """Of torch's checkpoints, where the attack was, of fsspec, builtins, os, subprocess and what else attacks name."""
    named: set[Name] = set()
    standard = [importlib.import_module(m) for m in (
        "os", "posix", "subprocess", "operator", "functools", "copyreg", "importlib", "pickle", "codecs", "runpy",
        "sys", "webbrowser", "shutil", "code", "timeit", "pydoc", "socket", "io", "types", "torch",
        "torch.serialization", "torch._utils", "torch.hub", "torch.storage")]  # fmt: skip
    for module in [*modules(torch.distributed.checkpoint), *standard, builtins, *_fsspec()]:
        for name, value in vars(module).items():
            if callable(value):
                named |= {(module.__name__, name), (getattr(value, "__module__", None) or "builtins", name)}
                if inspect.isclass(value):
                    named |= {(module.__name__, f"{name}.{inner}") for inner in vars(value)}
    assert len(named) > 5000
    for names in LISTS:
        for module, name in named - set(names):
            with pytest.raises(PickleError, match=r"^it names|damaged"):
                read_pickle(b"\x80\x04" + f"c{module}\n{name}\n".encode() + b")R.", names)
    assert len(set(METADATA) & named) < 60


def _fsspec() -> list[ModuleType]:
    fsspec = pytest.importorskip("fsspec")
    return modules(fsspec)


def test_every_opcode_that_is_not_known_is_refused() -> None:
    known = {
        "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
        "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
        "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM",
        "SETITEMS", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE",
        "NEWOBJ", "BUILD", "BINPERSID",
    }  # fmt: skip
    for op in pickletools.opcodes:
        if op.name not in known:
            with pytest.raises(PickleError, match="describes no data"):
                read_pickle(b"\x80\x04N" + op.code.encode("latin-1") + b"." * 20, ALL)
    assert {"POP", "DUP", "INST", "OBJ", "EXT1", "PERSID", "NEWOBJ_EX", "LONG4"}.isdisjoint(known)


RECORD = b"\x80\x04ctorch.distributed.checkpoint.metadata\nStorageMeta\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (RECORD + b"}b.", "has not just made"),  # attributes of a class are everybody's
        (RECORD + b")\x81}b}b.", "has not just made"),
        # a member of an enum is everybody's, too
        (b"\x80\x04ctorch.distributed.checkpoint.planner\nWriteItemType\nK\x01\x85R}b.", "has not just made"),
        (b"\x80\x04ctorch.distributed.checkpoint.planner\nWriteItemType\nK\x01\x85\x81}b.", "otherwise than"),
        (RECORD + b")R.", "otherwise than"),
        (RECORD + b")\x81N}\x86b.", "sets the state of a StorageMeta to another tuple"),
        (RECORD + b")\x81}K\x01Nsb.", "sets the state"),
        (RECORD + b")\x81}\x8c\x01aNsb.", "sets the state"),
        (RECORD + b")\x81NNs.", "sets items"),
        (RECORD + b")\x81Na.", "cut off or damaged"),
        (b"\x80\x04c_codecs\nencode\n\x8c\x01a\x8c\x03zip\x86R.", "calls _codecs.encode otherwise"),
        (b"\x80\x04NQ.", "values beside it"),
        (b"\x80\x04Nr\x01\x00\x00\x00.", "in another order"),
        (b"\x80\x04NN.", "goes on behind its end"),
        (b"\x80\x04N..", "goes on behind its end"),
        (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00N.", "cut off or damaged"),
        (b"\x80\x04\x80\x04N.", "protocol"),
        (b"\x80\x04]\x94h\x00a.", "nested too deeply, or hold themselves"),
        (b"\x80\x04NN\x93.", "cut off or damaged"),
        (b"\x80\x04N)R.", "calls what is no name"),
        (b"\x80\x04ctorch\nSize\n]R.", "calls what is no name"),
        (b"\x80\x04}]Ns.", "a key that is a list"),
        (b"\x80\x04})Ns.", "a key that is a tuple"),
        (b"\x80\x04})\x85Ns.", "a key that is a tuple"),
        (b"\x80\x04}(NNNNNtNs.", "a key that is a tuple"),
        (b"\x80\x09N.", "protocol"),
        (b"\x80\x04h\x07.", "cut off or damaged"),
        (b"\x80\x04t.", "cut off or damaged"),
        (b"\x80\x04", "cut off or damaged"),
        (b"", "cut off or damaged"),
        (b".", "cut off or damaged"),
    ],
)
def test_what_python_would_take_otherwise_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(PickleError, match=match):
        read_pickle(content, ALL)


_RECONSTRUCT = np.zeros(0).__reduce__()[0]


class Calls:
    """Unpickled, it is a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "call",
    [
        (_RECONSTRUCT, np.ndarray, (10**12,), b"b"), (_RECONSTRUCT, np.dtype, (0,), b"b"), (_RECONSTRUCT,),
        (np.dtype, "O8", False, True), (np.dtype,), (np.dtype, 8), (np.ndarray, (9,)),
    ],
)  # fmt: skip
def test_an_array_is_one_of_numbers_and_begins_empty(call: tuple[Any, ...], protocol: int) -> None:
    """Else it takes what memory there is, or holds objects."""
    assert read_pickle(pickle.dumps(np.arange(3, dtype=np.uint32), protocol), OBJECTS)
    with pytest.raises(PickleError, match=r"it calls numpy[\w.]* otherwise"):
        read_pickle(pickle.dumps(Calls(*call), protocol), OBJECTS)


def test_a_state_is_what_it_was_when_it_was_set() -> None:
    """The mapping stays in the memo, and may be changed behind the reader's back; Python's own copies it."""
    text = RECORD + b")\x81}\x94(\x8c\x07save_id\x8c\x01aub\x85h\x00(\x8c\x07save_id\x8c\x01bu\x86."
    made = read_pickle(text, ALL)[0][0]
    assert made.state == {"save_id": "a"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_are_what_python_reads(protocol: int) -> None:
    value = {
        "a": [1, -1, 255, 256, 65536, -(2**31), 2**40, 2**62],
        "b": (1.5, None, True, False),
        "c": ((), (1,), (1, 2, 3)),
    }
    value["d"] = value["a"]
    actual = read_pickle(pickle.dumps(value, protocol), {})
    assert actual == value and actual["d"] is actual["a"]


# ------------------------------------------------------------------ the attacks


def poisoned(folder: Path, how: Any) -> Path:
    checkpoint = store(folder / "one", PARENT, PARENT.full, random_tensors(PARENT))
    path = checkpoint / "weights" / ".metadata"
    path.write_bytes(how(path.read_bytes(), folder / "ran"))
    return checkpoint


ATTACKS = {
    "a template": with_template,
    "a reader": lambda p, place: with_call(p, "torch.distributed.checkpoint.filesystem FileSystemWriter", str(place)),
    "a folder": lambda p, place: with_call(p, "os mkdir", str(place)),
    "a folder by another way": lambda p, place: with_call(p, "torch.hub os.mkdir", str(place)),
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


def test_the_template_does_run_where_python_reads_it(tmp_path: Path) -> None:
    """So the test above can fail."""
    pytest.importorskip("jinja2")
    checkpoint = poisoned(tmp_path, with_template)
    pickle.loads((checkpoint / "weights" / ".metadata").read_bytes())
    assert (tmp_path / "ran").is_dir()
