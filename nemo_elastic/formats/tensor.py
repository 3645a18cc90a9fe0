# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tensor type of all formats: its words are read when its rows are asked for.

numpy has no bfloat16 and no float8, and cutting needs neither: an element is a word of 1, 2, 4 or 8 bytes that is
copied as it is. A cut, a cast or a permutation of a tensor is a tensor again, and reads no more than it needs.
"""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core.layout import is_exact
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError, bad

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES", "FLOATS", "ITEMSIZE", "SPAN", "Extent", "Handle", "Tensor", "check_convertible", "convert",
    "parse_dtype", "stored_as", "torch_dtype", "word",
]  # fmt: skip

#: dtype in a header -> bytes per element. Dtypes below one byte cannot be cut by element and are not read.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
#: numpy dtype that can compute with a dtype; the others have none
_NUMPY = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "F16": "<f2", "U16": "<u2", "I16": "<i2", "F32": "<f4", "U32": "<u4",
    "I32": "<i4", "F64": "<f8", "U64": "<u8", "I64": "<i8",
}  # fmt: skip
_NAMES = {np.dtype(v): k for k, v in _NUMPY.items()}
#: dtype of torch's, by its name there
_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_OF_TORCH = {f"torch.{name}": dtype for dtype, name in _TORCH.items()}
#: what a user calls a dtype, as budgets do -> its name in a safetensors header
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
#: dtypes whose words are the values themselves: others stand for something only with the scales of a quantisation
FLOATS = ("F64", "F32", "F16", "BF16")
#: source and target where every number of the source is one of the target
_WIDENING = {("F16", "F32"), ("BF16", "F32"), ("F16", "BF16")}

#: bytes of the source that one piece spans: few enough to stay in a cache from being read to being written, and for
#: memory that the allocator has at hand
SPAN = 2**20
#: bytes that go and are read all the same, where rows stay before and behind them: less than another call costs
GAP = 2**18

#: first row, and the one behind the last
Run = tuple[int, int]


def word(dtype: str) -> np.dtype:
    """The unsigned integer that holds one element of a dtype."""
    return np.dtype(f"<u{ITEMSIZE[dtype]}")


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

    def read(self, start: int, stop: int) -> np.ndarray:
        """These bytes of the tensor, as they come from the file: mapping its pages costs more than copying them does.

        Raises:
            ElasticError: the file has become shorter than it was.
        """
        if not hasattr(os, "preadv"):  # not on every system
            return np.frombuffer(self.data, np.uint8, stop - start, self.start + start)
        out, at = np.empty(stop - start, np.uint8), 0
        while at < out.size:
            got = os.preadv(self.file.number, [out[at:].data], self.start + start + at)
            if not got:
                raise ElasticError(f"{self.path}: ends inside a tensor; somebody changed it while it was read")
            at += got
        return out

    def forget(self) -> None:
        """Give the process's pages back: one tensor is in memory at a time, whatever the size of the model."""
        first = self.start // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(self.data, "madvise"):  # not on every system
            self.data.madvise(mmap.MADV_DONTNEED, first, self.stop - first)

    def evict(self) -> None:
        """Give the pages back and let the system drop its cache of them, for a source that is read once.

        What else is cached stays, and the next pages come from those that were given back, which takes a third off the
        time of cutting a large model.
        """
        self.forget()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.number, self.start, self.stop - self.start, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor as words, read row by row.

    Attributes:
        dtype: its name in a safetensors header, e.g. BF16.
        shape: its shape.
        rows: (first, last) -> words [last - first, *shape[1:]], unsigned little-endian integers of the element's size.
            A tensor of no dimensions has one row.
        span: bytes of the source that one row spans.
        array: all words, where they lie in memory or in a mapped file.
        extent: where the source lies, if that is in a mapped file.
        root: the source, compared by identity: one thread makes all tensors of one source, one after the other.
    """

    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]
    span: int
    array: np.ndarray | None = None
    extent: Extent | None = None
    root: object = None

    @classmethod
    def of(cls, value: Any, name: str = "tensor") -> Tensor:
        """A numpy array or a torch tensor on the CPU as it lies in memory; a `Tensor` as it is.

        Raises:
            ElasticError: a dtype that safetensors has no name for.
        """
        if isinstance(value, Tensor):
            return value
        if type(value).__module__.partition(".")[0] == "torch":
            return _from_torch(value)
        array = np.asarray(value)
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise ElasticError(f"{name}: dtype {array.dtype} cannot be stored")
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
        return cls.of_words(dtype, little.view(word(dtype)))

    @classmethod
    def of_words(cls, dtype: str, words: np.ndarray, extent: Extent | None = None) -> Tensor:
        """Words in memory, or those of a mapped file, which are copied from the file when rows are asked for."""
        lines = words.reshape(1) if not words.ndim else words
        row = max(1, lines[:1].nbytes)

        def rows(first: int, last: int) -> np.ndarray:
            if extent is None:
                return lines[first:last]
            return extent.read(first * row, last * row).view(words.dtype).reshape(last - first, *lines.shape[1:])

        return cls(dtype, tuple(words.shape), rows, row, words, extent, words if extent is None else extent)

    @classmethod
    def made(
        cls, dtype: str, shape: tuple[int, ...], rows: Callable[[int, int], np.ndarray], source: Tensor | None = None
    ) -> Tensor:
        """A tensor whose rows are computed, from rows of the source if it is made of one."""
        own = int(np.prod(shape[1:], dtype=np.int64)) * ITEMSIZE[dtype]
        if source is None:
            return cls(dtype, shape, rows, max(1, own), root=rows)
        return cls(dtype, shape, rows, source.span, None, source.extent, source.root)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * ITEMSIZE[self.dtype]

    @property
    def words(self) -> np.ndarray:
        """All of them, in the tensor's shape; those of a mapped file without reading them."""
        return self.rows(0, self.count).reshape(self.shape) if self.array is None else self.array

    def pieces(self) -> Iterator[np.ndarray]:
        """All rows, contiguous, a few megabytes at a time."""
        step = max(1, SPAN // self.span)
        for at in range(0, self.count, step):
            yield np.ascontiguousarray(self.rows(at, min(self.count, at + step)))

    def take(self, selections: Sequence[Selection]) -> Tensor:
        """What selections keep of each dimension, in order; everything if there are none."""
        if all(selection.is_full for selection in selections):
            return self
        first, *columns = selections
        shape = tuple(selection.kept_size for selection in selections)
        whole = all(selection.is_full for selection in columns)
        most, gap = max(1, SPAN // self.span), GAP // self.span

        def rows(start: int, stop: int) -> np.ndarray:
            runs = list(_clipped(first.runs, start, stop))
            if whole and len(runs) == 1:
                return self.rows(*runs[0])
            out, at = np.empty((stop - start, *shape[1:]), word(self.dtype)), 0
            for near in _near(runs, most, gap):
                read = self.rows(near[0][0], near[-1][1])
                for begin, end in near:
                    some = read[begin - near[0][0] : end - near[0][0]]
                    for dim, selection in enumerate(columns, 1):
                        some = selection.take(some, dim)
                    out[at : at + len(some)] = some
                    at += len(some)
            return out

        return Tensor.made(self.dtype, shape, rows, self)

    def permute(self, orders: Sequence[np.ndarray | None]) -> Tensor:
        """The same with each dimension in another order; None: as it is."""
        if all(order is None for order in orders):
            return self
        first, *rest = orders

        def rows(start: int, stop: int) -> np.ndarray:
            out = self.rows(start, stop) if first is None else self.words[first[start:stop]]
            for dim, order in enumerate(rest, 1):
                out = out if order is None else out.take(order, dim)
            return out

        return Tensor.made(self.dtype, self.shape, rows, self)

    def cast(self, dtype: str | None, name: str, zeros: dict[tuple[str, int], int] | None = None) -> Tensor:
        """The same values in another dtype; itself where that is its own, or None.

        Args:
            dtype: that of a safetensors header, one of `DTYPES`.
            name: of the tensor, for the error.
            zeros: gets how many numbers became 0, by name and first row.

        Raises:
            ElasticError: when rows are read; a number is too large for the dtype.
        """
        if dtype in (None, self.dtype):
            return self

        def rows(first: int, last: int) -> np.ndarray:
            read = self.rows(first, last)
            try:
                out = convert(read, self.dtype, dtype)
            except OverflowError:
                own = next(own for own, header in DTYPES.items() if header == dtype)
                most = {"F16": "65504", "BF16": "3.39e38", "F32": "3.40e38"}[dtype]
                raise ElasticError(f"tensor {name!r} has a number that {own} cannot hold (at most {most})") from None
            if zeros is not None and (self.dtype, dtype) not in _WIDENING:
                zeros[name, first] = _numbers(read) - _numbers(out)
            return out

        return Tensor.made(dtype, self.shape, rows, self)

    def numpy(self) -> np.ndarray:
        """The values in a dtype that numpy computes with: bfloat16 and float8 become float32."""
        return _values(self.dtype, self.words)

    def torch(self, *, copy: bool = True) -> torch.Tensor:
        """The values as a tensor of torch's.

        Args:
            copy: False shares the memory, which for a mapped file is read-only: writing to the tensor ends the
                process.

        Raises:
            ElasticError: a dtype that torch has not.
        """
        import torch

        dtype, words = torch_dtype(self.dtype), self.words
        words = words.view(f"<i{words.itemsize}" if words.itemsize > 1 else "<u1")
        if copy:
            words = words.copy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(words).view(dtype)


def _clipped(runs: Sequence[Run], start: int, stop: int) -> Iterator[Run]:
    """Runs of the source that kept rows from `start` to `stop` are."""
    at = 0
    for first, last in runs:
        begin, end = max(start - at, 0), min(stop - at, last - first)
        if begin < end:
            yield first + begin, first + end
        at += last - first
        if at >= stop:
            break


def _near(runs: Sequence[Run], most: int, gap: int) -> Iterator[list[Run]]:
    """Runs that are read in one go: with gaps of up to `gap` rows, and `most` rows from the first to the last."""
    held: list[Run] = []
    for run in runs:
        if held and (run[0] - held[-1][1] > gap or run[1] - held[0][0] > most):
            yield held
            held = []
        held.append(run)
    if held:
        yield held


# ------------------------------------------------------------------ values, and other dtypes


def parse_dtype(name: str | None, field: str = "dtype") -> str | None:
    """A user's name of a dtype as a safetensors header has it; None leaves weights as they are.

    Raises:
        ElasticError: another name.
    """
    if name is not None and name not in DTYPES:
        raise bad(field, name, f"one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def stored_as(tensor: str, dtype: str | None) -> str | None:
    """The dtype that a tensor of that name gets where `dtype` was asked for: what no cast may round gets F32."""
    return "F32" if dtype is not None and is_exact(tensor) else dtype


def check_convertible(name: str, tensor: str, dtype: str) -> None:
    """Check that a tensor of that name and dtype can be converted to what a user asked for (`name`).

    Raises:
        ElasticError: it is stored in something else than plain floating-point numbers, such as a quantised one.
    """
    if dtype not in FLOATS:
        raise bad("dtype", name, f"tensor {tensor!r} is stored in {dtype}; only {', '.join(FLOATS)} are converted")


def convert(words: np.ndarray, source: str, target: str) -> np.ndarray:
    """The words of the same values in another dtype, rounded to nearest, ties to even, as torch does.

    NaN stays NaN, and an infinity stays an infinity.

    Raises:
        OverflowError: a number would become infinite.
    """
    if source == target:
        return words
    values = _values(source, words)
    with np.errstate(over="ignore", invalid="ignore"):
        out = _bfloat16(values) if target == "BF16" else values.astype(_NUMPY[target]).view(word(target))
    if (source, target) in _WIDENING:
        return out
    if np.count_nonzero(np.isinf(_values(target, out))) != np.count_nonzero(np.isinf(values)):
        raise OverflowError(target)
    return out


def _values(dtype: str, words: np.ndarray) -> np.ndarray:
    if dtype in _NUMPY:
        return words.view(_NUMPY[dtype])
    if dtype == "BF16":
        # an array also where it has no dimensions, and numpy would make a number of another dtype of it
        return np.asarray(np.left_shift(words, 16, dtype=np.uint32)).view(np.float32)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _float8(dtype)[words]
    raise ElasticError(f"dtype {dtype} has no values that numpy can hold")


def _float8(dtype: str) -> np.ndarray:
    """Value of each of the 256 words (OCP 8-bit floating point: E4M3 has no infinity, E5M2 is a short float16)."""
    w = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":
        return (w << 8).view(np.float16).astype(np.float32)
    exponent, fraction = (w >> 3) & 15, (w & 7).astype(np.float32)
    value = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent.astype(np.float32) - 7))
    value = np.where((w & 127) == 127, np.nan, value)
    return np.where(w & 128, -value, value).astype(np.float32)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded: half of the last bit that stays, and one more where it is odd, carries."""
    bits = np.ascontiguousarray(values.astype(np.float32, copy=False)).view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # The sum of a not-a-number can carry into another value; its quiet bit keeps it one without its lower half.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, upper).astype("<u2")


def _numbers(words: np.ndarray) -> int:
    """How many words are not 0, with either sign."""
    return int(np.count_nonzero(words << words.dtype.type(1)))


def torch_dtype(dtype: str) -> torch.dtype:
    """torch's dtype of a name in a safetensors header.

    Raises:
        ElasticError: a dtype that torch has not.
    """
    import torch

    if dtype not in _TORCH:
        raise ElasticError(f"dtype {dtype} cannot be held by torch")
    return getattr(torch, _TORCH[dtype])


def _from_torch(tensor: torch.Tensor) -> Tensor:
    """A tensor of torch's; they share its memory if it is contiguous and on the CPU."""
    name = _OF_TORCH.get(str(tensor.dtype))
    if name is None:
        raise ElasticError(f"tensor: dtype {tensor.dtype} cannot be stored")
    tensor = tensor.detach().cpu().contiguous()
    import torch

    # signed integers of the words' size: those torch views as any dtype, and numpy knows
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return Tensor.of_words(name, tensor.view(signed).numpy().view(word(name)))
