# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is kept of a tensor, in its own dtype or another, a few megabytes at a time and without torch.

Another dtype is rounded to nearest, ties to even, as torch does. What is no number stays none, and an infinity an
infinity. A number that would become infinite is an error: float16 ends at 65504.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nemo_elastic.core.layout import is_exact
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError, bad

from .checksums import PART_BYTES, ReadCheck
from .raw import Raw, Window, word

__all__ = [
    "DTYPES", "FLOATS", "Converted", "Pieces", "check_convertible", "convert", "in_dtype", "parse_dtype", "stored_as",
]  # fmt: skip

#: what a user calls a dtype, as budgets do -> its name in a safetensors header
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
#: dtypes whose words are the values themselves: others stand for something only with the scales of a quantisation
FLOATS = ("F64", "F32", "F16", "BF16")
_NUMPY = {"F16": np.float16, "F32": np.float32}
#: source and target of which every number of the source is one of the target
_WIDENING = {("F16", "F32"), ("BF16", "F32"), ("F16", "BF16")}

#: first row, and the one behind the last
Part = tuple[int, int]
#: bytes of the source that one piece spans: few enough to stay in a cache from being read to being written
SPAN = 4 * 2**20
#: bytes that go and are read all the same, where rows stay before and behind them: less than another call costs
GAP = PART_BYTES


class Pieces:
    """What selections keep of a tensor, in order. What lies in a file is read only where it stays, and held against
    the checksums of its folder while it is read: bytes that are not what was written end in an `ElasticError`.

    Args:
        raw: The tensor. Its words are asked for when they are needed, and once: it may have to read them.
        selections: What each dimension keeps; everything if there are none.
        span: Bytes of the tensor that one piece spans.
        right: Parts of it that need no second look; see `ReadCheck`.
    """

    def __init__(
        self, raw: Raw, selections: tuple[Selection, ...] = (), span: int = SPAN, right: set[int] | None = None
    ) -> None:
        self.raw, self.selections, self.span, self.right = raw, selections, span, right

    @property
    def dtype(self) -> str:
        """Dtype of what is kept: the tensor's."""
        return self.raw.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is kept."""
        return tuple(s.kept_size for s in self.selections) if self.selections else self.raw.shape

    def stored(self, name: str) -> dict[str, Pieces]:
        """What a file gets of a tensor of that name: this alone."""
        return {name: self}

    def __call__(self) -> Iterator[np.ndarray]:
        """Give contiguous pieces along the first dimension."""
        words, columns = self.raw.words, self.selections[1:]
        if not words.ndim:  # a scale for all
            yield self.whole().reshape(1)
            return
        row = max(1, words[:1].nbytes)
        rows = max(1, self.span // row)
        runs = self.selections[0].runs if self.selections else ((0, len(words)),)
        parts = [(at, min(stop, at + rows)) for start, stop in runs for at in range(start, stop, rows)]
        window = Window(self.raw.extent) if self.raw.extent is not None else None
        watch = self.raw.watch(words if window is None else window, self.right)
        whole = all(selection.is_full for selection in columns)
        for together in _together(parts, rows):
            if whole and len(together) == 1:
                yield from map(np.ascontiguousarray, self._rows(together, watch, window, kept=True))
                continue
            piece, at = np.empty((sum(b - a for a, b in together), *self.shape[1:]), words.dtype), 0
            for near in _near(together, rows, GAP // row):
                for some in self._rows(near, watch, window, kept=False):
                    for dim, selection in enumerate(columns, 1):
                        some = selection.take(some, dim)
                    piece[at : at + len(some)] = some
                    at += len(some)
            yield piece
        watch.end()

    def _rows(self, near: list[Part], watch: ReadCheck, window: Window | None, kept: bool) -> Iterator[np.ndarray]:
        """Rows that stay, held against their checksums; of a file they are read together, to ends of parts.

        Those that are not kept are gone when the next are read.
        """
        words = self.raw.words
        row = words[:1].nbytes
        if window is not None:
            watch.leave(near[0][0] * row)  # of the last window, before it goes
            window.load(*watch.around(near[0][0] * row, near[-1][1] * row), kept)
        for start, stop in near:
            watch.reach(start * row, stop * row)
            if window is None:
                yield words[start:stop]
            else:
                yield window[start * row : stop * row].view(words.dtype).reshape(stop - start, *words.shape[1:])

    def whole(self) -> np.ndarray:
        """Give it in one array; a view where the layout allows one."""
        out = self.raw.words
        rows = out.reshape(1) if not out.ndim else out
        row, watch = rows[:1].nbytes, self.raw.watch(rows, self.right)
        for start, stop in self.selections[0].runs if self.selections else ((0, len(rows)),):
            watch.reach(start * row, stop * row)
        watch.end()
        for dim, selection in enumerate(self.selections):
            out = selection.take(out, dim)
        return out


def _together(parts: list[Part], rows: int) -> Iterator[list[Part]]:
    """Parts that make one piece, of up to `rows` rows: a small tensor in stripes is one, not one for each."""
    return _grouped(parts, lambda held, part: sum(b - a for a, b in [*held, part]) > rows)


def _near(parts: list[Part], rows: int, gap: int) -> Iterator[list[Part]]:
    """Parts that are read in one go: with gaps of up to `gap` rows, and `rows` rows from the first to the last."""
    return _grouped(parts, lambda held, part: part[0] - held[-1][1] > gap or part[1] - held[0][0] > rows)


def _grouped(parts: list[Part], apart: Callable[[list[Part], Part], bool]) -> Iterator[list[Part]]:
    """Parts in their order, a new group where one is apart from those before it."""
    held: list[Part] = []
    for part in parts:
        if held and apart(held, part):
            yield held
            held = []
        held.append(part)
    if held:
        yield held


# ------------------------------------------------------------------ another dtype


def parse_dtype(name: str | None, field: str = "dtype") -> str | None:
    """Give the name in a safetensors header of what a user asked for; None leaves weights as they are.

    Raises:
        ElasticError: Another name.
    """
    if name is not None and name not in DTYPES:
        raise bad(field, name, f"one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def stored_as(tensor: str, dtype: str | None) -> str | None:
    """The dtype that a tensor of that name gets where `dtype` was asked for: what no cast may round gets F32."""
    return "F32" if dtype is not None and is_exact(tensor) else dtype


def check_convertible(name: str, tensor: str, dtype: str) -> None:
    """Check that a tensor can be converted at all.

    Args:
        name: What the user asked for.
        tensor: Its name.
        dtype: What it is stored in.

    Raises:
        ElasticError: It is stored in something else than plain floating-point numbers, such as a quantised one.
    """
    if dtype not in FLOATS:
        raise bad("dtype", name, f"tensor {tensor!r} is stored in {dtype}; only {', '.join(FLOATS)} are converted")


def convert(words: np.ndarray, source: str, target: str) -> np.ndarray:
    """Give the words of the same values in another dtype.

    Args:
        words: Unsigned integers of any shape, as `Raw` has them.
        source: Their dtype.
        target: The dtype wanted, one of `DTYPES`.

    Raises:
        OverflowError: A number is too large for it.
    """
    if source == target:
        return words
    values = Raw(source, words).numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        out = _bfloat16(values) if target == "BF16" else values.astype(_NUMPY[target]).view(word(target))
    if (source, target) not in _WIDENING:
        infinite = np.count_nonzero(np.isinf(Raw(target, out).numpy()))
        if infinite != np.count_nonzero(np.isinf(values)):
            raise OverflowError(target)
    return out


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded: half of the last bit that stays, and one more where it is odd, carries."""
    bits = np.ascontiguousarray(values.astype(np.float32, copy=False)).view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # The sum of a not-a-number can carry into another value; its quiet bit keeps it one without its lower half.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, upper).astype("<u2")


def _numbers(words: np.ndarray) -> int:
    """How many words are not 0, with either sign."""
    return int(np.count_nonzero(words << words.dtype.type(1)))  # without the sign


def in_dtype(pieces: Pieces, dtype: str | None, tensor: str) -> Pieces | Converted:
    """Give what is kept of a tensor in a dtype; as it is where that is its own, or None."""
    return pieces if dtype in (None, pieces.dtype) else Converted(pieces, dtype, tensor)


class Converted:
    """What selections keep of a tensor, in another dtype, piece by piece.

    Args:
        pieces: The tensor and what stays of it.
        target: The dtype, as a safetensors header has it.
        tensor: Its name, for the error.

    Attributes:
        underflowed: Numbers that are not 0 in the tensor, and 0 in the dtype, after all pieces were given.
    """

    def __init__(self, pieces: Pieces, target: str, tensor: str) -> None:
        self.pieces, self.dtype, self.tensor = pieces, target, tensor
        self.underflowed = 0

    @property
    def raw(self) -> Raw:
        """The tensor itself."""
        return self.pieces.raw

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is kept."""
        return self.pieces.shape

    def stored(self, name: str) -> dict[str, Converted]:
        """See `Pieces.stored`."""
        return {name: self}

    def __call__(self) -> Iterator[np.ndarray]:
        """Give contiguous pieces along the first dimension.

        Raises:
            ElasticError: A number is too large for the dtype.
        """
        underflowed = 0
        for piece in self.pieces():
            out = self._converted(piece)
            if (self.raw.dtype, self.dtype) not in _WIDENING:
                underflowed += _numbers(piece) - _numbers(out)
            yield out
        self.underflowed = underflowed  # of one pass: a tied head is a second one over the embedding

    def whole(self) -> np.ndarray:
        """Give it in one array."""
        return self._converted(self.pieces.whole())

    def _converted(self, piece: np.ndarray) -> np.ndarray:
        try:
            return convert(piece, self.raw.dtype, self.dtype)
        except OverflowError:
            name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
            most = {"F16": "65504", "BF16": "3.39e38", "F32": "3.40e38"}[self.dtype]
            raise ElasticError(
                f"tensor {self.tensor!r} has a number that {name} cannot hold (at most {most})"
            ) from None
