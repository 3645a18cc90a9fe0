# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `torch.save` wrote into a checkpoint, read by `torch.load` as values alone: pieces of tensors, and objects.

NeMo and megatron-core open objects with readers that run what the pickles say. So a checkpoint that a run starts from
passes `check_harmless` first: `.metadata`, `common.pt` and the objects among the weights may name nothing but values.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.utils import _create_file_view
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.read import open_regular

from .metadata import (
    RECORDS,
    ByteRange,
    Metadata,
    PickleError,
    Piece,
    Record,
    check_format,
    read_metadata,
    regular_size,
    signature,
    weights_folder,
)

#: bytes of an object, which is looked at in memory
_OBJECT = 2**28
#: what is not sharded: the file, and the object in which today's megatron-core keeps it where there is no such file
_COMMON, _COMMON_OBJECT = "common.pt", "common_state/shard_0_1"
#: where a run of Bridge's stands
STATE = "train_state.pt"
#: in a folder of weights: what NeMo's classes, not ours, would run or follow
_FORBIDDEN = {
    "modelopt_state": "NeMo would run its content",
    "adapter_metadata.json": "NeMo would load a model that the file names",
}


class _Array(Record):
    """numpy's array, of which no bytes are looked at."""

    def __setstate__(self, state: Any) -> None:
        pass


class _DType(Record):
    """numpy's dtype of numbers: one with flags or fields of its own lets numpy take numbers for addresses."""

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
    """torch.load takes our list alone: megatron-core adds to its own, numpy's real dtype among others."""
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(_VALUES)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _load(file: Any, place: ByteRange) -> Any:
    """What some bytes of a file hold that `torch.save` wrote, on the CPU.

    Raises:
        PickleError: they hold something else, or more than values.
    """
    try:
        view: Any = _create_file_view(file, place.offset, place.length)
        return torch.load(view, map_location="cpu", weights_only=True)
    except Exception as exc:  # the file of a stranger can fail anywhere in torch's reader
        named = re.search(r"GLOBAL (\S+)", str(exc))
        why = exc if isinstance(exc, PickleError) else f"it names {named[1]}" if named else "it is cut off or damaged"
        raise PickleError(str(why)) from None


def load_object(file: BinaryIO, place: ByteRange) -> Any:
    """An object of a checkpoint; numpy's arrays and paths become records.

    Raises:
        PickleError: it is more than values.
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


def check_harmless(checkpoint: str | Path, only_weights: bool = False) -> Metadata:
    """Raise where a checkpoint holds what may run when it is loaded, or where a file of it is missing or cut off.

    Args:
        checkpoint: a NeMo checkpoint, or its folder of weights.
        only_weights: megatron-core alone will load it, not NeMo's classes.

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
        check_file(folder / name)
    for name, place in metadata.objects.items():
        _check_object(folder / place.file, place, f"{name}: ")
    return metadata


def _files(folder: Path, metadata: Metadata, only_weights: bool) -> list[str]:
    """Pickles beside the weights that are loaded, by what is there: a file goes before an object of `.metadata`."""
    there = [name for name in (_COMMON, STATE) if os.path.lexists(folder / name)]
    return there if only_weights and _COMMON_OBJECT in metadata.objects else sorted({_COMMON, *there})


def check_file(path: Path) -> None:
    """Raise where a file of torch's holds what may run when it is loaded."""
    _check_object(path, ByteRange(path.name, 0, regular_size(path)), "")


def _check_object(path: Path, place: ByteRange, name: str) -> None:
    try:
        _check_values(path, place, signature(path))
    except PickleError as exc:
        raise ElasticError(f"{name}is not a file that NeMo writes ({exc})", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None


@lru_cache(maxsize=2**14)
def _check_values(path: Path, place: ByteRange, _: tuple[int, ...]) -> None:
    if place.length > _OBJECT:
        raise PickleError(f"it has more than {_OBJECT >> 20} MiB, the most for an object")
    with open_regular(path) as file:
        load_object(file, place)
