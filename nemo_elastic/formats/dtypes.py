# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights in another dtype, a few megabytes at a time, without torch: rounded to nearest, ties to even, as torch does.

What is no number stays none, and an infinity an infinity. A number that would become infinite is an error: float16
ends at 65504.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nemo_elastic.core.layout import is_exact
from nemo_elastic.errors import ElasticError, bad

from .pieces import Pieces
from .raw import Raw, word

__all__ = ["DTYPES", "FLOATS", "Converted", "check_convertible", "convert", "in_dtype", "parse_dtype", "stored_as"]

#: what a user calls a dtype, as budgets do -> its name in a safetensors header
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
#: dtypes whose words are the values themselves: others stand for something only with the scales of a quantisation
FLOATS = ("F64", "F32", "F16", "BF16")
_NUMPY = {"F16": np.float16, "F32": np.float32}


def parse_dtype(name: str | None) -> str | None:
    """Give the name in a safetensors header of what a user asked for; None leaves weights as they are.

    Raises:
        ElasticError: Another name.
    """
    if name is not None and name not in DTYPES:
        raise bad("dtype", name, f"one of {', '.join(DTYPES)}")
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
    # Widening cannot overflow: an exponent of the source is one of the target.
    if (source, target) not in (("F16", "F32"), ("BF16", "F32"), ("F16", "BF16")):
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
        underflowed: Numbers that are not 0 in the tensor, and 0 in the dtype, among the pieces that were given.
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

    def __call__(self) -> Iterator[np.ndarray]:
        """Give contiguous pieces along the first dimension.

        Raises:
            ElasticError: A number is too large for the dtype.
        """
        for piece in self.pieces():
            out = self._converted(piece)
            if self.dtype == "F16" or self.raw.dtype == "F64":  # no other ends before its source does
                self.underflowed += _numbers(piece) - _numbers(out)
            yield out

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
