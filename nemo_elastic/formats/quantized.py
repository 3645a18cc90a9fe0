# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A weight of low precision: codes, and scales that lie on the weight's own dimensions in blocks.

Codes of several numbers in a byte, a scale for each 16 columns, one for the whole tensor: each is a tensor of its own,
and each of its dimensions is the weight's, in blocks of so many, or has one element for all. So a member's part of a
weight is a part of each of them, byte for byte, wherever no block is torn (`Selection.in_blocks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nemo_elastic.core.precision import BLOCK, FP8, LARGEST, NVFP4
from nemo_elastic.core.prefix import ONE, Selection
from nemo_elastic.errors import ElasticError, inside

from .kept import SPAN, Pieces
from .raw import Extent, Raw, from_torch, to_torch

if TYPE_CHECKING:
    import torch

__all__ = [
    "COMPRESSED", "FLOATS", "LAYOUTS", "MODELOPT", "SCHEMES", "WEIGHT", "Quantized", "QuantizedPieces", "Requantized",
    "Scheme", "Stored", "Torn", "as_torch", "bad_scales", "check_scale", "pieces_of", "scheme_of", "share_changed",
    "stored_of",
]  # fmt: skip

WEIGHT = "weight"
MODELOPT, COMPRESSED = "modelopt", "compressed-tensors"
LAYOUTS = (MODELOPT, COMPRESSED)
#: dtypes of scales that are no codes themselves
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Scheme:
    """How a layout stores the weights of a low precision. Names are those behind the module's: `weight_scale`.

    Attributes:
        precision: nvfp4 or fp8.
        layout: whose, one of `LAYOUTS`.
        codes: name and dtype of the codes.
        per_code: numbers of a row in one code.
        scale: name and dtypes of the scales.
        block: columns that a scale is for; 0 where it is for a whole row, or for all.
        over: name of the scale of the scales; None where there is none.
        inverse: what is stored there is 1 / scale.
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


class Stored(NamedTuple):
    """How a weight is stored.

    Attributes:
        scheme: its scheme.
        activations: whether the product's input has a scale of its own.
        by_row: whether each row has a scale, where none is for a block.
    """

    scheme: Scheme
    activations: bool
    by_row: bool = False


class Torn(ElasticError):
    """A member keeps a part of a block that has one scale."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight of low precision in a folder. It stands where a `Raw` stands, under the weight's name.

    Attributes:
        scheme: how it is stored.
        parts: its tensors, by their names behind the module's.
        shape: of the weight, [rows, columns].
    """

    scheme: Scheme
    parts: Mapping[str, Raw]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """What messages call it; no dtype of a header."""
        return self.scheme.precision

    @property
    def stored_as(self) -> Stored:
        """Its scheme, and what scales it has."""
        scheme = self.scheme
        by_row = not scheme.block and self.parts[scheme.scale[0]].words.size > 1
        return Stored(scheme, scheme.activations in self.parts, by_row)

    @property
    def block_scales(self) -> str | None:
        """Name of the scales of blocks behind the module's; None where there are none."""
        return self.scheme.scale[0] if self.scheme.block else None

    @property
    def nbytes(self) -> int:
        return sum(raw.nbytes for raw in self.parts.values())

    @property
    def extent(self) -> Extent | None:
        """Where its codes lie."""
        return self.parts[self.scheme.codes[0]].extent

    @property
    def plain(self) -> Quantized:
        """See `Raw.plain`."""
        return replace(self, parts={name: raw.plain for name, raw in self.parts.items()})

    def names(self, weight: str) -> dict[str, str]:
        """Names of its tensors in a file, where it has that name itself."""
        module = weight.removesuffix(WEIGHT)
        return {name: module + name for name in self.parts}

    def stored(self, weight: str) -> dict[str, Raw]:
        """Its tensors by their names in a file."""
        return {full: self.parts[name] for name, full in self.names(weight).items()}

    def some(self, first: int, last: int) -> Quantized:
        """Some of its rows, unread, as a weight."""
        parts = {
            name: raw if raw.words.size == 1 else Raw(raw.dtype, raw.words[first:last])
            for name, raw in self.parts.items()
        }
        return Quantized(self.scheme, parts, (last - first, *self.shape[1:]))

    def scale(self) -> np.ndarray:
        """What codes, or scales of blocks, are multiplied by: float32, [] or [rows, 1]."""
        scheme = self.scheme
        value = self.parts[scheme.over or scheme.scale[0]].numpy().astype(np.float32)
        value = value.reshape(()) if value.size == 1 else value.reshape(-1, 1)
        return np.asarray(np.float32(1) / value if scheme.inverse else value)

    def torch(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, [rows, columns].

        Args:
            dtype: that it gets.

        Raises:
            ElasticError: scales of its blocks are negative or no numbers.
        """
        import torch

        from nemo_elastic.nn.low_precision import fp8_values, nvfp4_values

        codes, scale = to_torch(self.parts[self.scheme.codes[0]], copy=False), torch.from_numpy(self.scale())
        if self.block_scales is None:
            return fp8_values(codes, scale, dtype)
        blocks = self.parts[self.block_scales]
        if wrong := bad_scales(blocks.words):  # nobody reads them before
            raise ElasticError(
                f"{wrong} scales of blocks are negative or not a number; nemo-elastic verify finds damage"
            )
        return nvfp4_values(codes, to_torch(blocks, copy=False), scale, dtype)


class QuantizedPieces:
    """What selections keep of a quantised weight: a part of each of its tensors. See `Pieces`.

    Raises:
        Torn: some block stays in part.
    """

    def __init__(
        self, weight: Quantized, selections: tuple[Selection, ...] = (), right: Mapping[str, set[int]] | None = None
    ) -> None:
        self.raw, self.selections = weight, selections
        self.parts = {
            name: Pieces(raw, _blocks(weight, raw, selections), right=None if right is None else right[name])
            for name, raw in weight.parts.items()
        }

    @property
    def dtype(self) -> str:
        return self.raw.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that is kept."""
        return tuple(s.kept_size for s in self.selections) if self.selections else self.raw.shape

    def stored(self, weight: str) -> dict[str, Pieces]:
        """What is kept of each tensor, by its name in a file."""
        return {full: self.parts[name] for name, full in self.raw.names(weight).items()}

    def whole(self) -> Quantized:
        """Give it as a weight of its own."""
        parts = {name: Raw(pieces.raw.dtype, pieces.whole()) for name, pieces in self.parts.items()}
        return Quantized(self.raw.scheme, parts, self.shape)


class Requantized(QuantizedPieces):
    """What selections keep of a weight, where that tears blocks: codes and scales computed anew from its values, some
    rows at a time, under the same scale of scales.

    Args:
        name: of the weight.
        weight: it.
        selections: what stays of it.

    Attributes:
        power, error: sums of squares of the values, and of what computing them anew has changed, after one pass.
    """

    def __init__(self, name: str, weight: Quantized, selections: tuple[Selection, ...]) -> None:
        scheme, (rows, columns) = weight.scheme, selections
        if columns.kept_size % scheme.block:
            raise Torn(f"{columns.kept_size} channels are no multiple of {scheme.block}: take another size")
        self.name, self.raw, self.selections = name, weight, selections
        self.power = self.error = 0.0
        self.parts: dict[str, Any] = {name: Pieces(raw) for name, raw in weight.parts.items() if raw.words.size == 1}
        for name, each in ((scheme.codes[0], scheme.per_code), (scheme.scale[0], scheme.block)):
            self.parts[name] = _Anew(self, name, (rows.kept_size, columns.kept_size // each))

    def rows(self) -> Iterator[dict[str, Raw]]:
        """Codes and scales of some rows after the others."""
        import torch

        from nemo_elastic.nn.low_precision import nvfp4_codes, nvfp4_values

        weight, (rows, columns) = self.raw, self.selections
        scheme, scale = weight.scheme, torch.from_numpy(weight.scale())
        step = max(1, SPAN // weight.shape[1])
        power = error = 0.0
        for first, last in rows.runs:
            for at in range(first, last, step):
                with inside(self.name):
                    values_rc = columns.take(weight.some(at, min(last, at + step)).torch(torch.float32), 1)
                codes, scales = nvfp4_codes(values_rc, scale)
                changed_rc = nvfp4_values(codes, scales, scale, torch.float32) - values_rc
                power += float(values_rc.double().square().sum())
                error += float(changed_rc.double().square().sum())
                yield {scheme.codes[0]: from_torch(codes), scheme.scale[0]: from_torch(scales)}
        self.power, self.error = power, error  # codes and scales may be two passes, at the same time


@dataclass(frozen=True)
class _Anew:
    """Codes or scales that are computed when their turn comes."""

    weight: Requantized
    name: str
    shape: tuple[int, ...]

    @property
    def raw(self) -> Raw:
        return self.weight.raw.parts[self.name]

    @property
    def dtype(self) -> str:
        return self.raw.dtype

    def __call__(self) -> Iterator[np.ndarray]:
        for rows in self.weight.rows():
            yield rows[self.name].words

    def whole(self) -> np.ndarray:
        """Give it in one array."""
        return np.concatenate(list(self()))


def stored_of(tensors: Mapping[str, Any]) -> dict[str, Stored]:
    """How each weight of low precision among a model's tensors is stored."""
    return {name: t.stored_as for name, t in tensors.items() if isinstance(t, Quantized)}


def check_scale(name: str, raw: Raw, precision: str, inverse: bool = False) -> None:
    """Check scales of a whole weight or tensor, of which there are a few: they are read where a folder is opened.

    Args:
        name: of the tensor that has them.
        raw: it.
        precision: of the codes.
        inverse: what is stored is 1 / scale.

    Raises:
        ElasticError: one is no positive number, or makes infinities of codes.
    """
    with np.errstate(all="ignore"):
        value = raw.numpy().astype(np.float32)
        scale = np.float32(1) / value if inverse else value
        if not np.all((scale > 0) & np.isfinite(scale * np.float32(LARGEST[precision]))):
            raise ElasticError(f"tensor {name!r} is a scale that is no positive number, or too large for {precision}")


def bad_scales(words: np.ndarray) -> int:
    """Number of e4m3 scales that are negative or not a number, read off their words."""
    return int(np.count_nonzero((words > 0x80) | (words == 0x7F)))


def share_changed(anew: Sequence[Requantized]) -> float | None:
    """Root mean square of what computing weights anew has changed, as a share of theirs; None where there are none."""
    power = sum(weight.power for weight in anew)
    return (sum(weight.error for weight in anew) / power) ** 0.5 if power else None


def _blocks(weight: Quantized, raw: Raw, selections: tuple[Selection, ...]) -> tuple[Selection, ...]:
    """The same selections of one of its tensors; of one element there is nothing to select."""
    if not selections or raw.words.size == 1:
        return ()
    out = []
    for selection, whole, own in zip(selections, weight.shape, raw.shape, strict=True):
        if own == 1:
            out.append(Selection((ONE,)))
            continue
        blocks = selection.in_blocks(whole // own)
        if blocks is None:
            what = f"{selection.kept_size} of {whole} channels are no whole blocks of {whole // own}"
            raise Torn(f"{what}; --requantize computes it anew")
        out.append(blocks)
    return tuple(out)


def pieces_of(
    name: str,
    tensor: Raw | Quantized,
    selections: tuple[Selection, ...] = (),
    right: Mapping[str, set[int]] | None = None,
    requantize: bool = False,
) -> Pieces | QuantizedPieces:
    """What selections keep of a tensor of a model, quantised or not.

    Args:
        name: of the tensor.
        tensor: it.
        selections: see `Pieces`.
        right: by names in a file, see `Pieces`.
        requantize: compute anew what else would be torn.

    Raises:
        Torn: some block that has one scale stays in part.
    """
    if isinstance(tensor, Quantized):
        own = None if right is None else {part: right[full] for part, full in tensor.names(name).items()}
        try:
            return QuantizedPieces(tensor, selections, own)
        except Torn:
            if not requantize and selections[1].kept_size % tensor.scheme.block == 0:
                raise
            return Requantized(name, tensor, selections)
    return Pieces(tensor, selections, right=None if right is None else right[name])


def as_torch(tensor: Raw | Quantized, dtype: torch.dtype | None = None, *, copy: bool = True) -> torch.Tensor:
    """A tensor of a model as torch has it; see `to_torch`.

    Args:
        tensor: it.
        dtype: of a quantised one, bfloat16 by default; others keep their own.
        copy: see `to_torch`.
    """
    if isinstance(tensor, Raw):
        return to_torch(tensor, copy=copy)
    import torch

    return tensor.torch(dtype or torch.bfloat16)
