# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Words to torch tensors and back, without a copy where possible."""

from __future__ import annotations

import warnings

import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.raw import Raw, word

__all__ = ["from_torch", "to_torch"]

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {v: k for k, v in _DTYPES.items()}
#: signed integers of the words' sizes: torch views those as any dtype
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def to_torch(raw: Raw, *, copy: bool = True) -> torch.Tensor:
    """Give the values as a tensor.

    Args:
        raw: The words.
        copy: False shares the memory, which for a mapped file is read-only: writing to the tensor ends the process.

    Raises:
        ElasticError: A dtype that torch has not.
    """
    dtype = _DTYPES.get(raw.dtype)
    if dtype is None:
        raise ElasticError(f"dtype {raw.dtype} cannot be held by torch")
    words = raw.words.view(f"<i{raw.words.itemsize}" if raw.words.itemsize > 1 else "<u1")
    if copy:
        words = words.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(words).view(dtype)


def from_torch(tensor: torch.Tensor) -> Raw:
    """Give a tensor's words; they share its memory if it is contiguous and on the CPU.

    Raises:
        ElasticError: A dtype that safetensors has no name for.
    """
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise ElasticError(f"tensor: dtype {tensor.dtype} cannot be stored")
    tensor = tensor.detach().cpu().contiguous()
    return Raw(name, tensor.view(_WORDS[tensor.element_size()]).numpy().view(word(name)))
