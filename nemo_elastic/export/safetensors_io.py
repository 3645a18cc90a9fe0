# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""safetensors files as mapped words, without torch.

numpy has no bfloat16 and no float8, and slicing needs neither: an element is a word of 1, 2, 4 or 8 bytes that is
copied as it is. `Raw` is such an array with the name of its dtype. Reading maps the file and copies nothing; every
header is checked before any of it is believed. `shards` writes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from nemo_elastic.errors import ElasticError, shown

from .checksums import Expected, Watch

__all__ = ["ITEMSIZE", "Extent", "Raw", "open_shard", "word"]

#: dtype in a header -> bytes per element. Dtypes below one byte cannot be cut by element and are not read.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
#: numpy dtype that can compute with a dtype; the others have none
NUMPY = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "F16": "<f2", "U16": "<u2", "I16": "<i2", "F32": "<f4", "U32": "<u4",
    "I32": "<i4", "F64": "<f8", "U64": "<u8", "I64": "<i8",
}  # fmt: skip
_NAMES = {np.dtype(v): k for k, v in NUMPY.items()}
_HEADER_LIMIT = 100_000_000  # what the safetensors library allows
_MOST_DIMENSIONS = 32  # what numpy 1 allows; no tensor of a model has five
_MOST_ELEMENTS = 2**59  # numpy counts bytes in 63 bits, also where there are none because another dimension is 0


@dataclass(frozen=True, eq=False)
class Extent:
    """Where a tensor lies in a mapped file.

    Attributes:
        path: the file.
        start, stop: its bytes there.
        data: the whole file, mapped.
    """

    path: Path
    start: int
    stop: int
    data: mmap.mmap

    def want(self, start: int, stop: int) -> None:
        """Have the system read these bytes of the tensor meanwhile."""
        first = (self.start + start) // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(self.data, "madvise"):  # not on every system
            self.data.madvise(mmap.MADV_WILLNEED, first, self.start + stop - first)

    def forget(self) -> None:
        """Give the process's pages back: it holds one tensor at a time then, of a model of any size."""
        first = self.start // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(self.data, "madvise"):  # not on every system
            self.data.madvise(mmap.MADV_DONTNEED, first, self.stop - first)

    def evict(self) -> None:
        """Forget, and let the system drop its cache of them: for what is read once.

        What else is cached stays, and the next pages come from those that were given back, which takes a third off the
        time of cutting a large model.
        """
        self.forget()
        if hasattr(os, "posix_fadvise"):
            handle = os.open(self.path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, self.start, self.stop - self.start, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


@dataclass(frozen=True, eq=False)
class Raw:
    """A tensor as words.

    Attributes:
        dtype: its name in a safetensors header, e.g. BF16.
        words: unsigned little-endian integers of the element's size, in the tensor's shape.
        extent: where it lies, if the words are those of a mapped file.
        expected: what its folder says that it is; whoever copies words holds them against it (`watch`).
    """

    dtype: str
    words: np.ndarray
    extent: Extent | None = None
    expected: Expected | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.words.shape)

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    @classmethod
    def of(cls, value: Any, name: str = "tensor") -> Raw:
        """Take a `Raw`, a numpy array or a torch tensor as words.

        Raises:
            ElasticError: A dtype that safetensors has no name for.
        """
        if isinstance(value, Raw):
            return value
        if type(value).__module__.partition(".")[0] == "torch":
            from .torch_io import from_torch

            return from_torch(value)
        array = np.asarray(value)
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise ElasticError(f"{name}: dtype {array.dtype} cannot be stored")
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
        return cls(dtype, little.view(word(dtype)))

    @property
    def plain(self) -> Raw:
        """The same, and nothing is expected of it: for who reports damage, or copies nothing."""
        return self if self.expected is None else replace(self, expected=None)

    def watch(self, words: np.ndarray, right: set[int] | None = None) -> Watch:
        """Hold its words, which somebody reads from front to back, against what is expected of them; see `Watch`."""
        data = words.reshape(-1).view(np.uint8).data if self.expected is not None else memoryview(b"")
        return Watch(data, self.expected, right)

    def numpy(self) -> np.ndarray:
        """Give the values in a dtype that numpy computes with: bfloat16 and float8 become float32."""
        if self.dtype in NUMPY:
            return self.words.view(NUMPY[self.dtype])
        if self.dtype == "BF16":
            return (self.words.astype(np.uint32) << 16).view(np.float32)
        if self.dtype in ("F8_E4M3", "F8_E5M2"):
            return _float8(self.dtype)[self.words]
        raise ElasticError(f"dtype {self.dtype} has no values that numpy can hold")


def word(dtype: str) -> np.dtype:
    """The unsigned integer that holds one element of a dtype."""
    return np.dtype(f"<u{ITEMSIZE[dtype]}")


def _float8(dtype: str) -> np.ndarray:
    """Value of each of the 256 words (OCP 8-bit floating point: E4M3 has no infinity, E5M2 is a short float16)."""
    w = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":
        return (w << 8).view(np.float16).astype(np.float32)
    exponent, fraction = (w >> 3) & 15, (w & 7).astype(np.float32)
    value = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent.astype(np.float32) - 7))
    value = np.where((w & 127) == 127, np.nan, value)
    return np.where(w & 128, -value, value).astype(np.float32)


def open_shard(path: Path) -> dict[str, Raw]:
    """Map one file.

    Args:
        path: A `.safetensors` file.

    Returns:
        Its tensors by name, in the order of the file. They are views of the mapped file and read-only.

    Raises:
        ElasticError: The file is missing, shorter than its header says, or the header contradicts itself.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ElasticError(f"{path}: is a pipe or a device, not a file of weights")
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ElasticError(f"{path}: not a whole safetensors file (its header is cut off)")
            header = _parse(path, file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size > 8 + length else None
    except FileNotFoundError:
        raise ElasticError(f"{path}: no such file") from None
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be read ({exc.strerror})") from None
    entries = sorted(_entries(path, header), key=lambda e: (e[3], e[4]))
    at = 0
    for name, _, _, start, stop in entries:
        if start != at:
            what = "overlaps another tensor" if start < at else "leaves a hole before it"
            raise ElasticError(f"{path}: tensor {name!r} {what} (it starts at byte {start}, not {at})")
        at = stop
    if at != size - 8 - length:
        lost = "truncated" if at > size - 8 - length else "longer than its tensors"
        raise ElasticError(f"{path}: {lost} ({size - 8 - length} bytes of data, its header says {at})")
    out = {}
    for name, dtype, shape, start, stop in entries:
        if math.prod(filter(None, shape)) > _MOST_ELEMENTS:
            raise ElasticError(f"{path}: tensor {name!r} has shape {shown(list(shape))}, which no memory can hold")
        if data is None or start == stop:
            out[name] = Raw(dtype, np.empty(shape, word(dtype)))
            continue
        flat = np.frombuffer(data, word(dtype), math.prod(shape), 8 + length + start)
        out[name] = Raw(dtype, flat.reshape(shape), Extent(path, 8 + length + start, 8 + length + stop, data))
    return out


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe, which else waits for a writer, comes back at once."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        raise ElasticError(f"{path}: not a safetensors file (its header is not JSON: {exc})") from None
    if not isinstance(header, dict):
        raise ElasticError(f"{path}: not a safetensors file (its header is no JSON object)")
    header.pop("__metadata__", None)
    return header


def _entries(path: Path, header: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    def whole(values: Any) -> TypeGuard[list[int]]:
        return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)

    for name, info in header.items():
        fields = info if isinstance(info, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if not whole(shape) or not whole(offsets) or len(offsets) != 2:
            raise ElasticError(f"{path}: tensor {name!r} has no valid shape and data_offsets in the header")
        if not isinstance(dtype, str) or dtype not in ITEMSIZE:
            raise ElasticError(f"{path}: tensor {name!r} has dtype {dtype!r}; allowed are {', '.join(ITEMSIZE)}")
        if len(shape) > _MOST_DIMENSIONS:
            raise ElasticError(f"{path}: tensor {name!r} has {len(shape)} dimensions, above {_MOST_DIMENSIONS}")
        start, stop = offsets
        if stop - start != math.prod(shape) * ITEMSIZE[dtype]:
            raise ElasticError(f"{path}: tensor {name!r} has {stop - start} bytes, {dtype} {shape} is another size")
        yield name, dtype, tuple(shape), start, stop
