# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a torch_dist checkpoint are, and its `.metadata`: tensors, their pieces, which bytes hold them.

`.metadata` is a pickle of torch's and megatron-core's records. Python reads the pickle, but every name in it has to be
on the list here, and stands for a record without code: no call of a pickle reaches a function. What the records say is
checked before it is used: every piece lies in a file of the same folder, and the pieces of a model's tensor fill it.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.errors import ElasticError, bad, shown
from nemo_elastic.io.read import open_regular, read_bytes, read_json, read_text

#: what NeMo puts before the names of a model's tensors; Megatron-Bridge puts nothing there
PREFIX = "module."
#: prefixes of both for optimizer states; megatron-core has another one for experts, and counts them
_OPTIMIZER = re.compile(r"(chained_\d+\.)?optimizer\.")

#: in the names of states of TransformerEngine's layers
EXTRA_STATE = "_extra_state"

#: bytes of the file; that of a 12B on 64 GPUs has a tenth
_BYTES = 2**28

#: of Megatron-Bridge: a run's last checkpoint, what their names begin with, and what each says of its run
TRACKER, ITERATION, RUN_CONFIG = "latest_checkpointed_iteration.txt", "iter_", "run_config.yaml"
#: the name of one that has weights alone, and no step of a training
RELEASE = "release"


def weights_folder(path: str | Path) -> Path:
    """The folder of sharded weights in a checkpoint of NeMo's or Megatron-Bridge's, or in the last of a Bridge run."""
    last = last_iteration(path)
    for candidate in (Path(path) / "weights", Path(path), *((last,) if last else ())):
        if (candidate / "metadata.json").is_file():
            return candidate
    raise bad("checkpoint", str(path), "a NeMo checkpoint folder (weights/metadata.json)")


def last_iteration(path: str | Path | None) -> Path | None:
    """The last checkpoint in a folder of Megatron-Bridge's or Megatron-LM's, or the one that it is; None without one.

    Both write its number down after all ranks have written all of it: one that a kill cut short is not found.
    """
    if path is None:
        return None
    folder = Path(path)
    # a link to one may have any name
    one = folder.name.startswith(ITERATION) or folder.name == RELEASE or folder.is_symlink()
    if one and (folder / RUN_CONFIG).is_file():
        return folder
    try:
        text = read_text(folder / TRACKER, most=1024)[:20].strip()
    except (OSError, UnicodeDecodeError):
        return None
    number = text.isdecimal() and text.isascii()
    last = folder / (f"{ITERATION}{int(text):07d}" if number else text) if number or text == RELEASE else None
    return last if last is not None and last.is_dir() else None


def check_format(folder: Path) -> None:
    """Raise where a folder of weights is in another format than the one that is looked at here."""
    content = read_json(folder / "metadata.json")
    content = content if isinstance(content, dict) else {}
    backend, common = content.get("sharded_backend"), content.get("common_backend", "torch")
    if backend != "torch_dist":
        raise bad(f"{folder / 'metadata.json'}: sharded_backend", backend, "only torch_dist is read")
    if common != "torch":
        raise bad(f"{folder / 'metadata.json'}: common_backend", common, "only torch is read")


def model_prefix(names: Iterable[str]) -> str:
    """Prefix of a model's tensors in a checkpoint."""
    return PREFIX if any(name.startswith(PREFIX) for name in names) else ""


def of_model(name: str, prefix: str) -> bool:
    """Whether a tensor's name is one of the model's, in a checkpoint with this prefix."""
    return name.startswith(prefix) and not of_optimizer(name) and EXTRA_STATE not in name


def of_optimizer(name: str) -> bool:
    """Whether a tensor's name is one of the optimizer's."""
    return _OPTIMIZER.match(name) is not None


@dataclass(frozen=True)
class ByteRange:
    """Bytes of a file.

    Attributes:
        file: name in the folder of weights.
        offset, length: in bytes.
    """

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, and where it is stored."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: ByteRange


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint."""

    dtype: torch.dtype
    size: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Metadata:
    """Entries of a checkpoint by name: tensors, and other objects, which are pickles.

    Attributes:
        folder: of the weights.
        tensors, objects: see above.
        ends: file -> bytes that it has at least.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    objects: Mapping[str, ByteRange]
    ends: Mapping[str, int]

    def file(self, name: str) -> Path:
        """A file that something is stored in."""
        path = self.folder / name
        size = regular_size(path)
        if size < self.ends[name]:
            raise ElasticError(f"has {size} of {self.ends[name]} bytes: the file is cut off", path)
        return path


def read_metadata(folder: Path) -> Metadata:
    """Read `.metadata` in a folder of weights."""
    path = folder / ".metadata"
    try:
        return _read_metadata(folder, signature(path))
    except FileNotFoundError:
        raise ElasticError("is missing; it lists where each tensor is stored", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None
    except ElasticError:
        raise
    except Exception as exc:  # the pickle of a stranger can fail anywhere in Python's reader
        why = exc if isinstance(exc, PickleError) else "it is cut off or damaged"
        raise ElasticError(f"not a checkpoint's metadata ({why})", path) from None


def signature(path: Path) -> tuple[int, ...]:
    """Identity of a file version; cached metadata is reused while it is equal, as a start reads it several times."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=2)  # the parent's and the run's checkpoint; some megabytes for a large one
def _read_metadata(folder: Path, _: tuple[int, ...]) -> Metadata:
    content = read_bytes(folder / ".metadata", _BYTES)
    check_pickle(content)
    return _metadata(folder, _Reader(content).load())


def regular_size(path: Path) -> int:
    """Bytes of a file, which is one: a pipe would be waited for, and a device has no end."""
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None


# --------------------------------------------------------------------------------------------- the pickle


class PickleError(ValueError):
    """A pickle that is more than values, in a few words."""


#: most values in one that may be a key, those in it counted as often as they are in it; of an honest one: 627
_LEAVES = 2**12
#: whatever is in these, they are no keys
_CONTAINERS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "LIST", "DICT"}
#: opcodes that take all down to a mark off the stack; how many values each takes, of these those below the mark
_TO_MARK = {op.name for op in pickletools.opcodes if pickletools.markobject in op.stack_before}
_TAKES = {op.name: [*op.stack_before, pickletools.markobject].index(pickletools.markobject)
          for op in pickletools.opcodes}  # fmt: skip


def check_pickle(content: bytes) -> None:
    """Raise for a pickle that takes time or memory out of proportion to its bytes: for the hash of a key, or its memo.

    A tuple that holds another one twice, which holds a third one twice, has a hash of 2^40 steps in 200 bytes.
    """
    stack: list[int | None] = []  # values in each value; None for a mark
    memo: dict[Any, int | None] = {}
    for count, (op, arg, _) in enumerate(pickletools.genops(content)):
        name: Any = op.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if arg is None else arg
            if number > count:
                raise PickleError("its memo is larger than its content")
            memo[number] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        else:
            leaves = 1
            while name in _TO_MARK and (one := stack.pop()) is not None:
                leaves += one
            for _ in range(_TAKES[name]):
                leaves += stack.pop() or 0
            leaves = 1 if name in _CONTAINERS else leaves
            if leaves > _LEAVES:
                raise PickleError(f"it has a value in which are more than {_LEAVES} others")
            if op.stack_after:
                stack.append(leaves)


class Record:
    """A record, enum or path of torch's or megatron-core's, without its code.

    A pickle cannot set attributes of the class: `__setstate__` then lacks its argument.

    Attributes:
        made: arguments of the call that would make it.
    """

    made: tuple[Any, ...] = ()

    def __hash__(self) -> int:
        """megatron-core's reader hashes the content of a key."""
        values = (*self.made, *(value for name, value in vars(self).items() if name != "made"))
        if not all(isinstance(value, (str, int, torch.Size, type(None))) for value in values):
            raise PickleError("it has a key that is more than names and numbers")
        return super().__hash__()

    def __init__(self, *made: Any) -> None:
        self.made = made

    def __setstate__(self, state: Any) -> None:
        if self.made:  # members of an enum are everybody's, too
            raise PickleError("it sets attributes of an object that it did not make")
        self.made = state if isinstance(state, tuple) else ()
        vars(self).update(state if isinstance(state, dict) else {})


_TORCH = "torch.distributed.checkpoint."
_CORE = "megatron.core.dist_checkpointing.strategies.torch"
_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"  # before torch 2.3
#: names of records, by module. Each is a dataclass, an enum, a path or the name of a layout: making one stores values
RECORDS: Mapping[str, tuple[str, ...]] = {
    _TORCH + "metadata": (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "MetadataIndex",
        "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING",
    ),
    _SHARDED: ("TensorProperties", "MEM_FORMAT_ENCODING"),
    _TORCH + "filesystem": ("_StorageInfo", "_StoragePrefix"),
    # megatron-core adds the plans of all ranks, which nobody reads again
    _TORCH + "planner": ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData"),
    _CORE: ("MCoreMetadata", "MCoreSavePlan"),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "PurePosixPath"),
    "pathlib._local": ("PosixPath", "PurePosixPath"),
}  # fmt: skip
#: what cannot be changed, and is taken as it is
_VALUES = {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)} | {
    ("torch", "Size"): torch.Size, ("collections", "OrderedDict"): OrderedDict, ("builtins", "slice"): slice,
}  # fmt: skip


class _Reader(pickle.Unpickler):
    """Python's reader of pickles, to which every name stands for a value or a record."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _VALUES:
            return _VALUES[module, name]
        if name not in RECORDS.get(module, ()):
            raise PickleError(f"it names {module}.{name}")
        return Record


# --------------------------------------------------------------------------------------------- from records to values


def _metadata(folder: Path, whole: Any) -> Metadata:
    places: dict[tuple[str, tuple[int, ...] | None], ByteRange] = {}
    for index, info in whole.storage_data.items():
        offset = getattr(index, "offset", None)
        places[index.fqn, None if offset is None else _size(offset)] = _place(index.fqn, info)
    tensors: dict[str, StoredTensor] = {}
    objects: dict[str, ByteRange] = {}
    for name, entry in whole.state_dict_metadata.items():
        chunks = getattr(entry, "chunks", None)
        if chunks is None:  # a BytesStorageMetadata has no attributes
            objects[name] = _found(places, name, None)
            continue
        boxes = [(_size(chunk.offsets), _size(chunk.sizes)) for chunk in chunks]
        pieces = tuple(Piece(offsets, sizes, _found(places, name, offsets)) for offsets, sizes in boxes)
        tensors[name] = _tensor(name, entry.properties.made, _size(entry.size), pieces)
    ends: Counter[str] = Counter()
    for place in places.values():
        ends[place.file] = max(ends[place.file], place.offset + place.length)
    return Metadata(folder, tensors, objects, ends)


def _place(name: str, info: Any) -> ByteRange:
    """Where a piece or an object is stored."""
    file, (offset, length) = info.relative_path, _size((info.offset, info.length))
    if not isinstance(file, str) or file in ("", ".", "..") or re.search(r"[/\\\0]", file):
        raise PickleError(f"it names the file {shown(file)}, which is not in the same folder")
    if getattr(info, "transform_descriptors", None):
        raise PickleError(f"{name} is not stored in torch's format")
    return ByteRange(file, offset, length)


def _found(places: Mapping[Any, ByteRange], name: str, offsets: tuple[int, ...] | None) -> ByteRange:
    if (name, offsets) not in places:
        raise PickleError(f"it does not say where {name} lies")
    return places[name, offsets]


def _tensor(name: str, properties: tuple[Any, ...], size: tuple[int, ...], pieces: tuple[Piece, ...]) -> StoredTensor:
    dtype, layout = properties[:2]
    if not isinstance(dtype, torch.dtype) or layout.made != ("torch.strided",):
        raise PickleError(f"{name} is no dense tensor")
    for piece in pieces:
        inside = len(piece.sizes) == len(piece.offsets) == len(size)
        if not inside or any(o + s > n for o, s, n in zip(piece.offsets, piece.sizes, size, strict=True)):
            raise PickleError(f"{name} of shape {list(size)} has a piece outside of it")
        if math.prod(piece.sizes) * dtype.itemsize > piece.place.length:
            raise PickleError(f"a piece of {name} of shape {list(piece.sizes)} has {piece.place.length} bytes")
    if not of_optimizer(name) and not _covered(size, pieces):
        raise PickleError(f"the pieces of {name} do not make up its shape {list(size)}")
    return StoredTensor(dtype, size, pieces)


def _covered(size: tuple[int, ...], pieces: tuple[Piece, ...]) -> bool:
    """Whether boxes fill a box, each part of it once.

    How often a point is covered follows from the corners of all boxes, each with a sign: the corners tell where that
    number changes. So boxes fill another exactly if their corners cancel to its own.
    """
    corners: Counter[tuple[int, ...]] = Counter()
    for offsets, sizes, sign in [*((p.offsets, p.sizes, 1) for p in pieces), ((0,) * len(size), size, -1)]:
        for upper in itertools.product((0, 1), repeat=len(sizes)):
            at = tuple(o + s * u for o, s, u in zip(offsets, sizes, upper, strict=True))
            corners[at] += sign * (-1) ** sum(upper)
    return not any(corners.values())


def _size(values: Any) -> tuple[int, ...]:
    """Numbers of entries or bytes; of a tensor of at most eight dimensions."""
    if not isinstance(values, tuple) or len(values) > 8 or not all(type(n) is int and 0 <= n < 2**62 for n in values):
        raise PickleError("it has something else where numbers of entries or bytes belong")
    return tuple(values)
