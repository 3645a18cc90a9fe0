# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A tensor as words, without torch; where torch is, words become its tensors, and its tensors words.

numpy has no bfloat16 and no float8, and slicing needs neither: an element is a word of 1, 2, 4 or 8 bytes that is
copied as it is. `Raw` is such an array with the name of its dtype, as safetensors has it.
"""

from __future__ import annotations

import mmap
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.errors import ElasticError

from .checksums import ExpectedTensor, ReadCheck

if TYPE_CHECKING:
    import torch

__all__ = ["ITEMSIZE", "Extent", "Handle", "Raw", "Window", "from_torch", "to_torch", "word"]

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
#: dtype of torch's, by its name there
_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_OF_TORCH = {f"torch.{name}": dtype for dtype, name in _TORCH.items()}


class Handle:
    """Another handle of an open file, which is closed with the last tensor that lies there."""

    def __init__(self, number: int) -> None:
        self.number = os.dup(number)

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, eq=False)
class Extent:
    """Where a tensor lies in a mapped file.

    Attributes:
        path: the file.
        start, stop: its bytes there.
        data: the whole file, mapped.
        file: the same, open.
    """

    path: Path
    start: int
    stop: int
    data: mmap.mmap
    file: Handle

    def read(self, start: int, stop: int, into: np.ndarray | None = None) -> np.ndarray:
        """These bytes of the tensor, as they come from the file: mapping its pages costs more than copying them does.

        Args:
            start, stop: the first, and the one behind the last.
            into: bytes that may be overwritten, as many or more; new ones by default.

        Raises:
            ElasticError: The file has become shorter than it was.
        """
        if not hasattr(os, "preadv"):  # not on every system
            return np.frombuffer(self.data, np.uint8, stop - start, self.start + start)
        out = np.empty(stop - start, np.uint8) if into is None else into[: stop - start]
        at = 0
        while at < out.size:
            got = os.preadv(self.file.number, [out[at:].data], self.start + start + at)
            if not got:
                raise ElasticError(f"{self.path}: ends inside a tensor; somebody changed it while it was read")
            at += got
        return out

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
            os.posix_fadvise(self.file.number, self.start, self.stop - self.start, os.POSIX_FADV_DONTNEED)


class Window:
    """The bytes of a tensor in a file, of which those that were loaded last are in memory."""

    def __init__(self, extent: Extent) -> None:
        self._extent, self._start = extent, 0
        self._memory = self._held = np.empty(0, np.uint8)

    def __len__(self) -> int:
        return self._extent.stop - self._extent.start

    def load(self, start: int, stop: int, kept: bool) -> None:
        """Read these; they replace what was loaded before. Where nobody keeps them, the memory serves again."""
        if self._memory.size < stop - start:
            self._memory = np.empty(stop - start, np.uint8)
        self._start, self._held = start, self._extent.read(start, stop, None if kept else self._memory)

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop = part.start, part.stop
        if self._start <= start and stop <= self._start + self._held.size:
            return self._held[start - self._start : stop - self._start]
        return self._extent.read(start, stop)


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
    expected: ExpectedTensor | None = None

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
            return from_torch(value)
        array = np.asarray(value)
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise ElasticError(f"{name}: dtype {array.dtype} cannot be stored")
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
        return cls(dtype, little.view(word(dtype)))

    def stored(self, name: str) -> dict[str, Raw]:
        """What a file has of a tensor of that name: itself alone."""
        return {name: self}

    @property
    def plain(self) -> Raw:
        """The same, and nothing is expected of it: for who reports damage, or copies nothing."""
        return self if self.expected is None else replace(self, expected=None)

    def watch(self, words: np.ndarray | Window, right: set[int] | None = None) -> ReadCheck:
        """Hold its words, which somebody reads from front to back, against what is expected; see `ReadCheck`."""
        if isinstance(words, Window):
            return ReadCheck(words, self.expected, right)
        data = words.reshape(-1).view(np.uint8) if self.expected is not None else np.empty(0, np.uint8)
        return ReadCheck(data, self.expected, right)

    def numpy(self) -> np.ndarray:
        """Give the values in a dtype that numpy computes with: bfloat16 and float8 become float32."""
        if self.dtype in NUMPY:
            return self.words.view(NUMPY[self.dtype])
        if self.dtype == "BF16":
            # an array also where it has no dimensions, of which numpy makes a number of another dtype
            return np.asarray(np.left_shift(self.words, 16, dtype=np.uint32)).view(np.float32)
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


def to_torch(raw: Raw, *, copy: bool = True) -> torch.Tensor:
    """Give the values as a tensor.

    Args:
        raw: The words.
        copy: False shares the memory, which for a mapped file is read-only: writing to the tensor ends the process.

    Raises:
        ElasticError: A dtype that torch has not.
    """
    import torch

    if raw.dtype not in _TORCH:
        raise ElasticError(f"dtype {raw.dtype} cannot be held by torch")
    words = raw.words.view(f"<i{raw.words.itemsize}" if raw.words.itemsize > 1 else "<u1")
    if copy:
        words = words.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(words).view(torch_dtype(raw.dtype))


def torch_dtype(dtype: str) -> torch.dtype:
    """torch's dtype of a name in a safetensors header."""
    import torch

    return getattr(torch, _TORCH[dtype])


def from_torch(tensor: torch.Tensor) -> Raw:
    """Give a tensor's words; they share its memory if it is contiguous and on the CPU.

    Raises:
        ElasticError: A dtype that safetensors has no name for.
    """
    name = _OF_TORCH.get(str(tensor.dtype))
    if name is None:
        raise ElasticError(f"tensor: dtype {tensor.dtype} cannot be stored")
    tensor = tensor.detach().cpu().contiguous()
    import torch

    # signed integers of the words' size: those torch views as any dtype, and numpy knows
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return Raw(name, tensor.view(signed).numpy().view(word(name)))
