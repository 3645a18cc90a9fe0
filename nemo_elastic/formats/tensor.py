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
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError

from .dtypes import DTYPES, ITEMSIZE, NAMES, OF_TORCH, WIDENING, convert, count_nonzero, torch_dtype, values, word

if TYPE_CHECKING:
    import torch

__all__ = ["SPAN", "Extent", "Handle", "Tensor"]

#: bytes of the source that one piece spans: few enough to stay in a cache from being read to being written, and for
#: memory that the allocator has at hand
SPAN = 2**20
#: bytes that go and are read all the same, where rows stay before and after them: less than another call costs
GAP = 2**18

#: first row, and the one after the last
Run = tuple[int, int]


class Handle:
    """Another handle of an open file, which is closed with the last tensor that lies there."""

    def __init__(self, number: int) -> None:
        self.number = os.dup(number)
        weakref.finalize(self, os.close, self.number)


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
        """These bytes of the tensor, read from the file: mapping its pages costs more than copying them does."""
        if not hasattr(os, "preadv"):  # not on every system
            return np.frombuffer(self.data, np.uint8, stop - start, self.start + start)
        out, at = np.empty(stop - start, np.uint8), 0
        while at < out.size:
            got = os.preadv(self.file.number, [out[at:].data], self.start + start + at)
            if not got:
                raise ElasticError(
                    f"{self.path}: ends inside a tensor; another process changed the file while it was read"
                )
            at += got
        return out

    def forget(self) -> None:
        """Give the process's pages back: one tensor is in memory at a time, whatever the size of the model."""
        first = self.start // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(self.data, "madvise"):  # not on every system
            self.data.madvise(mmap.MADV_DONTNEED, first, self.stop - first)

    def evict(self) -> None:
        """Unmap the pages and let the system drop them from its cache, for a source that is read once.

        Other cached files stay, and new pages reuse the freed ones, which saves a third of the time of cutting a large
        model.
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
        """A numpy array or a torch tensor on the CPU as it lies in memory; a `Tensor` as it is."""
        if isinstance(value, Tensor):
            return value
        if type(value).__module__.partition(".")[0] == "torch":
            return _from_torch(value)
        array = np.asarray(value)
        dtype = NAMES.get(array.dtype.newbyteorder("<"))
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
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * ITEMSIZE[dtype]
        if source is None:
            return cls(dtype, shape, rows, max(1, row_bytes), root=rows)
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
        """Kept positions of each dimension, in order; all without selections."""
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
        """The same values in another dtype; unchanged for the same dtype or None.

        Args:
            dtype: that of a safetensors header, one of `DTYPES`.
            name: of the tensor, for the error.
            zeros: gets how many numbers became 0, by name and first row.
        """
        if dtype in (None, self.dtype):
            return self

        def rows(first: int, last: int) -> np.ndarray:
            read = self.rows(first, last)
            try:
                out = convert(read, self.dtype, dtype)
            except OverflowError:
                dtype_name = next(dtype_name for dtype_name, header in DTYPES.items() if header == dtype)
                most = {"F16": "65504", "BF16": "3.39e38", "F32": "3.40e38"}[dtype]
                raise ElasticError(
                    f"tensor {name!r} has a number that {dtype_name} cannot hold (at most {most})"
                ) from None
            if zeros is not None and (self.dtype, dtype) not in WIDENING:
                zeros[name, first] = count_nonzero(read) - count_nonzero(out)
            return out

        return Tensor.made(dtype, self.shape, rows, self)

    def scale(self, factor: float) -> Tensor:
        """The values times a factor, in float32 at least; itself where the factor is 1."""
        if factor == 1:
            return self
        dtype, real = ("F64", "<f8") if self.dtype == "F64" else ("F32", "<f4")

        def rows(first: int, last: int) -> np.ndarray:
            exact = values(self.dtype, self.rows(first, last)).astype(np.float64) * factor
            return exact.astype(real).view(word(dtype))

        return Tensor.made(dtype, self.shape, rows, self)

    def numpy(self) -> np.ndarray:
        """The values in a dtype that numpy computes with: bfloat16 and float8 become float32."""
        return values(self.dtype, self.words)

    def torch(self, *, copy: bool = True) -> torch.Tensor:
        """The values as a tensor of torch's.

        Args:
            copy: False shares the memory, which for a mapped file is read-only: writing to the tensor ends the
                process.
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
    group: list[Run] = []
    for run in runs:
        if group and (run[0] - group[-1][1] > gap or run[1] - group[0][0] > most):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _from_torch(tensor: torch.Tensor) -> Tensor:
    """A tensor of torch's; they share its memory if it is contiguous and on the CPU."""
    name = OF_TORCH.get(str(tensor.dtype))
    if name is None:
        raise ElasticError(f"tensor: dtype {tensor.dtype} cannot be stored")
    tensor = tensor.detach().cpu().contiguous()
    import torch

    # signed integers of the words' size: those torch views as any dtype, and numpy knows
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return Tensor.of_words(name, tensor.view(signed).numpy().view(word(name)))
