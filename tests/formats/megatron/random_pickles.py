# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pickles near those of checkpoints: honest ones, written down again with a few values, calls and bytes that differ.

    python -m tests.formats.megatron.random_pickles FILE

reads a list of them with torch's own reader, within limits that the kernel holds, and says of each how that ended. One
that hangs or ends the process ends it here.
"""

from __future__ import annotations

import importlib
import io
import pickle
import random
import resource
import signal
import struct
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import planner
from torch.distributed.checkpoint.filesystem import _StorageInfo, _StoragePrefix
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from nemo_elastic.formats.megatron.forms import DTYPES, METADATA, OBJECTS
from nemo_elastic.formats.megatron.pickled import STORED, Form, Made, Name, Named, read_pickle
from tests.hosts.nemo.poison import made

#: values beside a pickle, and what one pickle may take: seconds of a processor, bytes
VALUES = bytes(range(48))
SECONDS, MEMORY = 2.0, 2**29
#: opcodes, and depth, behind which a pickle is written as it was: what takes the place of another value holds more
LONG, DEEP = 1500, 80
HOSTILE: list[Name] = [
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "set"),
    ("numpy.core.multiarray", "scalar"),
]


def doubled(value: Any, times: int) -> Any:
    """A value that is short with references and endless without."""
    for _ in range(times):
        value = (value, value)
    return value


def metadata() -> Metadata:
    """What torch and megatron-core say of one tensor in two pieces and of an object."""
    properties = TensorProperties(dtype=torch.bfloat16)
    chunks = [ChunkStorageMetadata(torch.Size([i, 0]), torch.Size([2, 3])) for i in (0, 2)]
    indices = [MetadataIndex("module.a", chunk.offsets) for chunk in chunks]
    places = {index: made(_StorageInfo, relative_path="__0_0.distcp", offset=900 * i, length=900)
              for i, index in enumerate([*indices, MetadataIndex("b/shard_0_1")])}  # fmt: skip
    size, kinds = torch.Size([4, 3]), planner.WriteItemType
    items = [
        planner.WriteItem(index, kinds.SHARD, tensor_data=planner.TensorWriteData(chunk, properties, size))
        for index, chunk in zip(indices, chunks, strict=True)
    ]
    items.append(planner.WriteItem(MetadataIndex("b/shard_0_1"), kinds.BYTE_IO, planner.BytesIOWriteData(900)))
    plan = planner.SavePlan(items, _StoragePrefix("__0_"), {"module.a": ("module", 0, "a")})
    entries = {"module.a": TensorStorageMetadata(properties, size, chunks), "b/shard_0_1": BytesStorageMetadata()}
    whole = Metadata(entries, {}, places, StorageMeta(PosixPath("/a/b"), "c"), "1.0.0")
    whole.all_local_plans = [plan]  # type: ignore[attr-defined]
    return whole


def objects() -> list[Any]:
    """What NeMo and Megatron-Bridge keep beside tensors."""
    drawn = ("MT19937", np.arange(6, dtype=np.uint32), 624, 0, 0.0)
    buckets = [{(torch.bfloat16, torch.float32): [10, 20]}]
    flags, file = np.array([[True], [False]]), io.BytesIO(b"scales")
    tensor = torch.frombuffer(bytearray(VALUES), dtype=torch.float32)
    group = {"lr": 3e-4, "betas": (0.9, 0.95), "step": 2, "params": [0, 1], "pre_wd_mult": None, "fused": True}
    return [
        [{"random": (3, tuple(range(9)), None), "np": drawn, "torch": tensor, "tracker": {"model": tensor[:4]}}],
        {"optimizer": {"param_groups": [group, dict(group)], "buckets": buckets}, "path": PosixPath("/a/b.c"),
         "state": OrderedDict(a=[tensor.view(3, 4), group]), "file": file, "sizes": torch.Size([3, 4])},
        {"device": [torch.device("cpu"), torch.device("cuda", 1)], "dtype": torch.float8_e4m3fn, "flags": flags},
    ]  # fmt: skip


def zipped(content: bytes) -> bytes:
    """The file of torch's of which this is the pickle, with the values beside it."""
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    for name, record in {"data.pkl": content, "byteorder": b"little", "data/0": VALUES}.items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return file.getvalue()


class Trees:
    """Honest pickles as `read_pickle` reads them, and everything in them.

    Attributes:
        forms: what they may name.
        trees: whole ones.
        honest: values in them.
        pool: these, and others that belong nowhere.
    """

    def __init__(self, contents: Sequence[bytes], forms: Mapping[Name, Form]) -> None:
        self.forms = forms
        self.trees = [read_pickle(content, forms, stored=lambda _: True) for content in contents]
        self.pool: list[Any] = [
            0, -1, 7, 2**31, 2**62, 2**64 - 1, 0.5, float("nan"), "", "x" * 300, "torch.strided", b"bytes", None, True,
            (), [], {}, {"fqn": "a"}, *(doubled(1, times) for times in (2, 30, 60)), doubled("x", 40),
            *(Named(name) for name in forms), *map(Named, HOSTILE),
            *(Made(name, arguments) for name in [*forms, *HOSTILE] for arguments in ((), (1,), ((1, 2),), ("ls",))),
            Made(("numpy", "dtype"), ("V8", False, True), (3, "<", None, -1, -1, 0)),
            Made(("numpy", "dtype"), ("u4", False, True), (3, "<", None, (), {}, 4, 1, 27)),
            Made(("builtins", "set"), ([doubled(1, 60)],)),
            *(Made(name, (doubled(1, 60),)) for name in forms),
        ]  # fmt: skip
        self.honest: list[Any] = []
        for tree in self.trees:
            self.gather(tree)
        self.pool += self.honest

    def gather(self, value: Any) -> None:
        if not isinstance(value, Named) or value.kind in DTYPES:
            self.honest.append(value)
        for part in parts(value):
            self.gather(part)


def parts(value: Any) -> list[Any]:
    if isinstance(value, Made):
        return [*value.arguments, *([] if value.state is None else [value.state])]
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else []


class Writer:
    """Writes a value as a pickle, and with some probability another one, or another opcode, in the place of each."""

    def __init__(self, draw: random.Random, trees: Trees, rate: float) -> None:
        self.draw, self.trees, self.rate = draw, trees, rate
        self.out: list[bytes] = [b"\x80\x04"]
        self.memo: dict[int, int] = {}
        self.depth = 0
        self.kept: list[Any] = []  # so that no other value gets the same id

    def chance(self, times: float = 1.0) -> bool:
        return len(self.out) < LONG and self.depth < DEEP and self.draw.random() < self.rate * times

    def value(self, value: Any) -> None:
        if self.chance():
            value = self.draw.choice(self.trees.pool)
            value = doubled(value, self.draw.choice([0, 0, 1, 3, 20]))
        if id(value) in self.memo and not self.chance():
            return self.out.append(b"j" + struct.pack("<I", self.memo[id(value)]))
        if isinstance(value, bool) or value is None:
            self.out.append({True: b"\x88", False: b"\x89", None: b"N"}[value])
        elif isinstance(value, int):
            short = 0 <= value < 256
            size = value.bit_length() // 8 + 1
            self.out.append(
                bytes([75, value]) if short else bytes([0x8A, size]) + value.to_bytes(size, "little", signed=True)
            )
        elif isinstance(value, float):
            self.out.append(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self.out.append(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
        elif isinstance(value, bytes):
            self.out.append(b"B" + struct.pack("<I", len(value)) + value)
        elif isinstance(value, Named):
            self.out.append(f"c{value.kind[0]}\n{value.kind[1]}\n".encode())
        elif isinstance(value, Made):
            self.call(value)
        elif isinstance(value, tuple):
            self.marked(value, b"t")
        else:
            self.out.append(b"]" if isinstance(value, list) else b"}")
            self.put(value)
            self.fill(value)
            return None
        return self.put(value)

    def fill(self, value: Any) -> None:
        if value:
            pairs = isinstance(value, dict)
            self.marked([x for pair in value.items() for x in pair] if pairs else value, b"u" if pairs else b"e")

    def marked(self, values: Sequence[Any], end: bytes) -> None:
        self.out.append(b"(")
        self.depth += 1
        for value in values:
            if not self.chance(0.3):
                self.value(value)
        self.depth -= 1
        self.out.append(end)

    def call(self, value: Made) -> None:
        if value.kind == STORED:
            self.value(value.arguments[0])
            return self.out.append(b"Q")
        form = self.trees.forms.get(value.kind, Form())
        self.value(Named(value.kind))
        self.value(value.arguments)
        self.out.append(b"\x81" if form.anew is not self.chance() else b"R")
        if value.kind == ("collections", "OrderedDict"):
            return self.fill(value.state)
        for _ in range((value.state is not None) + self.chance()):
            self.value(value.state)
            self.out.append(b"b")
        return None

    def put(self, value: Any) -> None:
        if isinstance(value, (list, dict, tuple, Made, str)):
            number = len(self.kept) if not self.chance(0.1) else self.draw.choice([1000, 2**31, 2**32 - 1])
            self.out.append(b"r" + struct.pack("<I", number))
            self.memo[id(value)] = number
            self.kept.append(value)


def random_pickle(draw: random.Random, trees: Trees) -> bytes:
    """One of the honest pickles, or some values of its, more or less as it was."""
    tree = draw.choice(trees.trees) if draw.random() < 0.4 else draw.sample(trees.honest, draw.randrange(1, 9))
    writer = Writer(draw, trees, draw.choice([0, 0, 0.002, 0.005, 0.01, 0.03]))
    writer.value(tree)
    content = bytearray(b"".join(writer.out) + b".")
    for _ in range(draw.choice([0] * 6 + [1, 3])):
        content[draw.randrange(2, len(content))] = draw.randrange(256)
    return bytes(content)


def sources() -> tuple[Trees, Trees]:
    """Of `.metadata`, and of objects."""
    pickles = []
    for value in objects():
        file = io.BytesIO()
        torch.save(value, file)
        pickles.append(torch._C.PyTorchFileReader(io.BytesIO(file.getvalue())).get_record("data.pkl"))
    return Trees([pickle.dumps(metadata(), 4)], METADATA), Trees(pickles, OBJECTS)


# ------------------------------------------------------------------ what torch makes of them


def walk(value: Any) -> int:
    """As megatron-core walks what it has loaded, which remembers nothing."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return 1 + sum(map(walk, inner))


def read(kind: str, content: bytes) -> None:
    """Read it as torch and megatron-core do."""
    file = io.BytesIO(content)
    actual = pickle.load(file) if kind == "metadata" else torch.load(file, weights_only=False)
    walk(getattr(actual, "__dict__", actual))


#: what a process does that nothing read from a checkpoint should make it do
_OUTSIDE = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "open", "exec", "compile", "code.", "pty.")


def main(file: Path) -> None:
    actual = pickle.loads(file.read_bytes())
    seen: list[str] = []
    for module, _ in {**METADATA, **OBJECTS}:  # to import takes longer than what is measured here
        with suppress(ImportError):
            importlib.import_module(module)
    for kind, content in honest():
        read(kind, content)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        named = tuple(arguments[:2]) if event == "pickle.find_class" else None
        if event.startswith(_OUTSIDE) or (named is not None and named not in OBJECTS and named not in METADATA):
            seen.append(f"{event} {arguments!r}")

    sys.addaudithook(hook)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    seen.clear()
    for number, (kind, content) in enumerate(actual):
        print(number, end=" ", flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            read(kind, content)
            said = "read"
        except Exception as exc:
            said = f"{type(exc).__name__}: {exc}".partition("\n")[0][:200]
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(f"ran {seen}" if seen else said, flush=True)
        seen.clear()


def honest() -> list[tuple[str, bytes]]:
    """Kind -> what is read of it, as it was written."""
    files = []
    for value in objects():
        file = io.BytesIO()
        torch.save(value, file)
        files.append(("object", file.getvalue()))
    return [("metadata", pickle.dumps(metadata(), 4)), *files]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
