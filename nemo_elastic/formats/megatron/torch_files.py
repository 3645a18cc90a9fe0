# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `torch.save` wrote into a checkpoint, read by `torch.load` as values alone: pieces of tensors, and objects.

NeMo and megatron-core open objects with readers that run what the pickles say. So a checkpoint that a run starts from
passes `check_harmless` first: `.metadata`, `common.pt` and the objects among the weights may name nothing but values.
TransformerEngine unpickles the bytes that it finds as a state of its layers: these must be empty.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.utils import _ReaderView
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.read import open_regular

from .metadata import (
    EXTRA_STATE,
    RECORDS,
    ByteRange,
    Metadata,
    PickleError,
    Piece,
    Record,
    check_format,
    check_pickle,
    read_metadata,
    regular_size,
    signature,
    weights_folder,
)

#: bytes of an object, which is looked at in memory
_OBJECT = 2**28
#: unsharded state: its file, and the object that newer versions of megatron-core use instead
_COMMON, _COMMON_OBJECT = "common.pt", "common_state/shard_0_1"
#: where a run of Bridge's stands
STATE = "train_state.pt"
#: in a folder of weights: what NeMo's classes, not ours, would run or follow
_FORBIDDEN = {
    "modelopt_state": "NeMo would run its content",
    "adapter_metadata.json": "NeMo would load a model that the file names",
}


class _Array(Record):
    """Stands for a numpy array, whose bytes are not read."""

    def __setstate__(self, state: Any) -> None:
        pass


class _DType(Record):
    """numpy's dtype of numbers only: others could make numpy treat numbers as addresses."""

    def __init__(self, code: Any = None, *rest: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch("b1|[iu][1248]|f[248]", code) or rest != (False, True):
            raise PickleError("it has a numpy.dtype that numpy does not define")

    def __setstate__(self, state: Any) -> None:
        if state not in [(3, mark, None, None, None, -1, -1, 0) for mark in "<|"]:
            raise PickleError("it has a numpy.dtype that numpy does not define")


#: what objects may name beyond what torch.load takes by itself, and what stands for it
_VALUES: list[Any] = [
    (io.BytesIO, "_io.BytesIO"), (_DType, "numpy.dtype"), (_Array, "numpy.ndarray"),
    (_Array, "numpy._core.multiarray._reconstruct"), (_Array, "numpy.core.multiarray._reconstruct"),
    *((Record, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in RECORDS[module]),
]  # fmt: skip


@contextmanager
def _values_alone() -> Iterator[None]:
    """Restrict torch.load to our list: megatron-core adds classes to torch's, among them numpy's real dtype."""
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(_VALUES)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


class _View(_ReaderView):
    """A part of a file. zipfile seeks from the end, which torch's class does in the wrong direction."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return super().seek(*((offset + self.len,) if whence == os.SEEK_END else (offset, whence)))


def _check_archive(view: Any, length: int) -> None:
    """Raise for an archive that unpacks to more than its size, and for pickles that would take too long.

    torch compresses nothing.
    """
    with zipfile.ZipFile(view) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > length:
            raise PickleError(f"it unpacks to more than its {length} bytes")
        for member in members:
            if member.filename.lower().endswith("data.pkl"):
                check_pickle(archive.read(member))
    view.seek(0)


def _load(file: Any, place: ByteRange) -> Any:
    """Load the object in a part of a file that `torch.save` wrote, on the CPU.

    Raises:
        PickleError: they hold something else, or more than values.
    """
    try:
        view: Any = _View(file, place.offset, place.length)
        _check_archive(view, place.length)
        return torch.load(view, map_location="cpu", weights_only=True)
    except Exception as exc:  # the file of a stranger can fail anywhere in torch's reader
        named = re.search(r"GLOBAL (\S+)", str(exc))
        why = exc if isinstance(exc, PickleError) else f"it names {named[1]}" if named else "it is cut off or damaged"
        raise PickleError(str(why)) from None


def load_object(file: BinaryIO, place: ByteRange) -> Any:
    """Load an object of a checkpoint without running code; numpy arrays and paths become records.

    Raises:
        PickleError: it has other classes than plain values.
    """
    with _values_alone():
        return _load(file, place)


def read_piece(path: Path, piece: Piece, dtype: torch.dtype) -> torch.Tensor:
    """Read a piece of a tensor.

    Args:
        path: the file that it is in.
        piece: see `Piece`.
        dtype: of the tensor.

    Raises:
        PickleError: it is something else.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        value = _load(file, piece.place)
    if type(value) is not torch.Tensor or value.layout != torch.strided:
        raise PickleError("it is no dense tensor")
    if (value.dtype, tuple(value.shape)) != (dtype, piece.sizes):
        raise PickleError(f"it is not of shape {list(piece.sizes)} and {dtype}, as is said")
    return value


# ------------------------------------------------------------------ a look at all of a checkpoint


def check_harmless(checkpoint: str | Path, only_weights: bool = False, extra_states: bool = True) -> Metadata:
    """Raise if loading a checkpoint may run code, or if one of its files is missing or truncated.

    Args:
        checkpoint: a NeMo checkpoint, or its folder of weights.
        only_weights: only megatron-core will load it, not NeMo's classes.
        extra_states: TransformerEngine gets the states that the checkpoint has of its layers.

    Returns:
        What its folder of weights holds.
    """
    folder = weights_folder(checkpoint)
    check_format(folder)
    for name, why in () if only_weights else _FORBIDDEN.items():
        if (folder / name).exists():
            raise bad("checkpoint", str(folder / name), f"a checkpoint without it: {why}")
    metadata = read_metadata(folder)
    for name in metadata.ends:
        metadata.file(name)
    for name in _files(folder, metadata, only_weights):
        check_file(folder / name, extra_states)
    for name, place in metadata.objects.items():
        _check_object(folder / place.file, place, f"{name}: ", extra_states)
    return metadata


def _files(folder: Path, metadata: Metadata, only_weights: bool) -> list[str]:
    """Pickles to load besides weights: a file has precedence over an object of `.metadata`."""
    there = [name for name in (_COMMON, STATE) if os.path.lexists(folder / name)]
    return there if only_weights and _COMMON_OBJECT in metadata.objects else sorted({_COMMON, *there})


def check_file(path: Path, extra_states: bool = True) -> None:
    """Raise if loading a file of torch may run code; see `check_harmless`."""
    _check_object(path, ByteRange(path.name, 0, regular_size(path)), "", extra_states)


def _check_object(path: Path, place: ByteRange, name: str, extra_states: bool) -> None:
    try:
        if _has_state(path, place, EXTRA_STATE in name, signature(path)) and extra_states:
            raise ElasticError(f"{name}has a state of FP8, which TransformerEngine would unpickle", path)
    except PickleError as exc:
        raise ElasticError(f"{name}is not a file that NeMo writes ({exc})", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None


@lru_cache(maxsize=2**14)
def _has_state(path: Path, place: ByteRange, is_state: bool, _: tuple[int, ...]) -> bool:
    """Whether an object of plain values is or contains a nonempty state of TransformerEngine."""
    if place.length > _OBJECT:
        raise PickleError(f"it has more than {_OBJECT >> 20} MiB, the most for an object")
    with open_regular(path) as file:
        whole = load_object(file, place)
    left, seen = [(is_state, whole)], set[tuple[bool, int]]()  # shared objects are checked once
    while left:
        is_state, value = left.pop()
        if (is_state, id(value)) in seen:
            continue
        seen.add((is_state, id(value)))
        if isinstance(value, Mapping):
            left += [(is_state or (isinstance(key, str) and EXTRA_STATE in key), each) for key, each in value.items()]
        elif isinstance(value, (list, tuple)):
            left += [(is_state, each) for each in value]
        elif is_state and not (value is None or (isinstance(value, torch.Tensor) and not value.numel())):
            return True
    return False
