# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The table of schemes: names and dtypes of the tensors that store a weight of low precision in each layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nemo_elastic.core.precision import BLOCK, FP8, NVFP4

from .tensor import Tensor

__all__ = [
    "COMPRESSED",
    "FLOATS",
    "LAYOUTS",
    "MODELOPT",
    "SCHEMES",
    "WEIGHT",
    "Quantization",
    "Scheme",
    "scheme_of",
]  # fmt: skip

WEIGHT = "weight"
MODELOPT, COMPRESSED = "modelopt", "compressed-tensors"
LAYOUTS = (MODELOPT, COMPRESSED)
#: dtypes of scales that are no codes themselves
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Scheme:
    """How a layout stores the weights of a low precision. Names are those after the module's: `weight_scale`.

    Attributes:
        precision: nvfp4 or fp8.
        layout: whose, one of `LAYOUTS`.
        codes: name and dtype of the codes.
        per_code: numbers of a row in one code.
        scale: name and dtypes of the scales.
        block: columns that a scale is for; 0 where it is for a whole row, or for all.
        over: name of the scale of the scales, or None.
        inverse: the file has 1 / scale there.
        activations: name of the scale of the product's input; where it has none, activations are not quantised, or by
            what they are.
    """

    precision: str
    layout: str
    codes: tuple[str, str]
    per_code: int
    scale: tuple[str, tuple[str, ...]]
    block: int
    over: str | None = None
    inverse: bool = False
    activations: str = "input_scale"

    @property
    def dtype(self) -> str:
        """Of scales for all that we write."""
        return "F32" if self.block else self.scale[1][0]

    @property
    def one(self) -> tuple[int, ...]:
        """Shape of a scale for all: compressed-tensors has one of one element."""
        return (1,) if self.layout == COMPRESSED else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its tensors, the codes first."""
        return tuple(n for n in (self.codes[0], self.scale[0], self.over, self.activations) if n is not None)


#: Sources: ModelOpt's `export/quant_utils.py`, compressed-tensors' `compressors/`, and vLLM's loaders of both
SCHEMES = (
    Scheme(NVFP4, MODELOPT, (WEIGHT, "U8"), 2, ("weight_scale", ("F8_E4M3",)), BLOCK, "weight_scale_2"),
    Scheme(FP8, MODELOPT, (WEIGHT, "F8_E4M3"), 1, ("weight_scale", FLOATS), 0),
    Scheme(NVFP4, COMPRESSED, ("weight_packed", "U8"), 2, ("weight_scale", ("F8_E4M3",)), BLOCK, "weight_global_scale",
           True, "input_global_scale"),
    # transformers multiplies codes out in the dtype of their scale: with an fp32 one a model in bf16 does not run
    Scheme(FP8, COMPRESSED, (WEIGHT, "F8_E4M3"), 1, ("weight_scale", ("BF16", "F32", "F16")), 0),
)  # fmt: skip


def scheme_of(precision: str, layout: str) -> Scheme:
    """The scheme of a precision in a layout."""
    return next(s for s in SCHEMES if (s.precision, s.layout) == (precision, layout))


class Quantization(NamedTuple):
    """How a weight is stored.

    Attributes:
        scheme: its scheme.
        activations: whether the product's input is quantized with a scale, too.
        by_row: whether each row has a scale; false where each block has one.
    """

    scheme: Scheme
    activations: bool
    by_row: bool = False

    def parts(self, weight: str) -> dict[str, str]:
        """The weight's tensors, by their names after the module's: their names in a file."""
        left = () if self.activations else (self.scheme.activations,)
        return {name: weight.removesuffix(WEIGHT) + name for name in self.scheme.names if name not in left}

    def shape(self, parts: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Shape of the weight whose tensors, by their names after the module's, are given."""
        rows, codes = parts[self.scheme.codes[0]].shape
        return rows, codes * self.scheme.per_code

    def columns(self, part: str) -> int | None:
        """Columns of the weight that an element of one of its tensors is for; 0: all of a row, None: all of it."""
        scheme = self.scheme
        if part == scheme.codes[0]:
            return scheme.per_code
        if part == scheme.scale[0] and (scheme.block or self.by_row):
            return scheme.block
        return None
