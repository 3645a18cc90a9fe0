# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors of a checkpoint as llama.cpp's `nemotron_h` and `nemotron_h_moe` read them.

Names are a column of the table (`core.layout`). Matrices have the dtype that was asked for; vectors, convolutions and
the router of experts are float32, as llama.cpp's own converter has them. Shapes are numpy's: the last dimension is
GGUF's first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.kinds.mamba import GROUPS
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.dtypes import values, word
from nemo_elastic.formats.tensor import Tensor

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["DTYPES", "Stored", "Zeros", "stored"]

#: numbers that became 0 in another dtype, by tensor and first row; see `Tensor.cast`
Zeros = dict[tuple[str, int], int]

#: `--dtype` -> GGML type of matrices; q8_0 has one scale for a block of 32 weights
DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
#: of a matrix whose rows are not whole blocks
_WITHOUT_BLOCKS = "F16"
#: rows of the table that stay float32 though they are matrices
_EXACT = ("moe.gate", "mamba.conv_weight")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        name: in the file.
        shape: of its values.
        type: GGML type.
        parts: words or bytes of blocks, concatenated in the file: one tensor, or one for each expert.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    parts: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def stored(model: Checkpoint, dtype: str | None = None, zeros: Zeros | None = None) -> list[Stored]:
    """The tensors of a file, unread, in storage order.

    Args:
        model: a member, in full precision. Layers that predict further tokens are left out.
        dtype: of matrices, one of `DTYPES`; that of each tensor in the source when None.
        zeros: gets how many numbers became 0, when tensors are read.

    Raises:
        ElasticError: A kind of layer has no place in the format.
    """
    if dtype is not None and dtype not in DTYPES:
        raise bad("dtype", dtype, f"one of {', '.join(DTYPES)}")
    return [*_stored(model, None if dtype is None else DTYPES[dtype], zeros)]


def _stored(model: Checkpoint, dtype: str | None, zeros: Zeros | None) -> Iterator[Stored]:
    from gguf import GGMLQuantizationType

    together: dict[str, list[layout.Tensor]] = {}
    for row in layout.tensors(model.parent, model.subnet):
        if not row.gguf:
            raise ElasticError(f"{row.hf}: GGUF has no tensor for it")
        together.setdefault(row.gguf, []).append(row)
    for name, rows in together.items():
        row, sources = rows[0], [model.tensors[each.hf] for each in rows]
        matrix = len(row.shape) == 2 and row.row.name not in _EXACT
        wanted = dtype or sources[0].dtype
        ggml = wanted if matrix and wanted in ("F16", "BF16", "Q8_0") else "F32"
        if ggml == "Q8_0" and row.shape[-1] % _block():
            ggml = _WITHOUT_BLOCKS
        parts = [_part(each, source, ggml, zeros) for each, source in zip(rows, sources, strict=True)]
        shape = _shape(row, model.parent.sizes)
        stacked = shape if row.number is None else (len(parts), *shape)
        yield Stored(name, stacked, GGMLQuantizationType[ggml], parts)


def _shape(row: layout.Tensor, sizes: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of one tensor in the file; llama.cpp reads some with other dimensions, in the same storage order."""
    if row.row.name == "mamba.conv_weight":
        return row.shape[0], row.shape[-1]
    if row.row.name in ("mamba.a_log", "mamba.d"):
        return *row.shape, 1
    if row.row.name == "mamba.norm":
        return sizes[GROUPS], row.shape[0] // sizes[GROUPS]
    return row.shape


def _part(row: layout.Tensor, source: Tensor, ggml: str, zeros: Zeros | None) -> Tensor:
    """The words of one tensor in a GGML type; llama.cpp stores A itself, not its logarithm."""
    if row.row.name == "mamba.a_log":

        def decay(first: int, last: int) -> np.ndarray:
            read = values(source.dtype, source.rows(first, last))
            return (-np.exp(read.astype(np.float64))).astype("<f4").view(word("F32"))

        return Tensor.made("F32", source.shape, decay, source)
    return _blocks(source) if ggml == "Q8_0" else source.cast(ggml, row.hf, zeros)


def _block() -> int:
    """Weights of a block of Q8_0."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0][0]


def _blocks(source: Tensor) -> Tensor:
    """A matrix [rows, columns] as bytes of Q8_0 [rows, bytes of a row]."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType.Q8_0

    def rows(first: int, last: int) -> np.ndarray:
        return quants.quantize(values(source.dtype, source.rows(first, last)).astype(np.float32), kind)

    return Tensor.made("U8", quants.quant_shape_to_byte_shape(source.shape, kind), rows, source)
