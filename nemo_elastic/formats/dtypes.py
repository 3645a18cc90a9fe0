# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Dtypes by their names in safetensors headers: words, the values of words, and casts that round as torch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.core.layout import is_exact
from nemo_elastic.errors import ElasticError, bad

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES",
    "FLOATS",
    "ITEMSIZE",
    "NAMES",
    "OF_TORCH",
    "WIDENING",
    "check_convertible",
    "convert",
    "count_nonzero",
    "parse_dtype",
    "stored_as",
    "torch_dtype",
    "values",
    "word",
]  # fmt: skip

#: dtype in a header -> bytes per element. Dtypes below one byte cannot be cut by element and are not read.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
#: dtype -> numpy dtype for computing; missing for others
_NUMPY = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "F16": "<f2", "U16": "<u2", "I16": "<i2", "F32": "<f4", "U32": "<u4",
    "I32": "<i4", "F64": "<f8", "U64": "<u8", "I64": "<i8",
}  # fmt: skip
NAMES = {np.dtype(v): k for k, v in _NUMPY.items()}
#: dtype of torch's, by its name there
_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
OF_TORCH = {f"torch.{name}": dtype for dtype, name in _TORCH.items()}
#: the user's name of a dtype, as in budgets -> its name in a safetensors header
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
#: dtypes whose words are the values themselves: others stand for something only with the scales of a quantisation
FLOATS = ("F64", "F32", "F16", "BF16")
#: source and target where every number of the source is one of the target
WIDENING = {("F16", "F32"), ("BF16", "F32"), ("F16", "BF16")}


def word(dtype: str) -> np.dtype:
    """The unsigned integer that holds one element of a dtype."""
    return np.dtype(f"<u{ITEMSIZE[dtype]}")


def parse_dtype(name: str | None, field: str = "dtype") -> str | None:
    """The name in a safetensors header of a dtype option: bf16 -> BF16. None, no cast, stays None."""
    if name is not None and name not in DTYPES:
        raise bad(field, name, f"one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def stored_as(tensor: str, dtype: str | None) -> str | None:
    """The dtype that a tensor of that name gets where `dtype` was asked for: what no cast may round gets F32."""
    return "F32" if dtype is not None and is_exact(tensor) else dtype


def check_convertible(name: str, tensor: str, dtype: str) -> None:
    """Check that a tensor of that name and dtype can be converted to what a user asked for (`name`)."""
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
    numbers = values(source, words)
    with np.errstate(over="ignore", invalid="ignore"):
        out = _bfloat16(numbers) if target == "BF16" else numbers.astype(_NUMPY[target]).view(word(target))
    if (source, target) in WIDENING:
        return out
    if np.count_nonzero(np.isinf(values(target, out))) != np.count_nonzero(np.isinf(numbers)):
        raise OverflowError(target)
    return out


def values(dtype: str, words: np.ndarray) -> np.ndarray:
    """The values of words in a dtype that numpy computes with: bfloat16 and float8 become float32."""
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


def count_nonzero(words: np.ndarray) -> int:
    """How many words are not 0, with either sign."""
    return int(np.count_nonzero(words << words.dtype.type(1)))


def torch_dtype(dtype: str) -> torch.dtype:
    """torch's dtype of a name in a safetensors header."""
    import torch

    if dtype not in _TORCH:
        raise ElasticError(f"dtype {dtype} does not exist in torch")
    return getattr(torch, _TORCH[dtype])
