# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a member keeps of each tensor of its source: as parts of it, as pieces of its files, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.kept import Pieces
from nemo_elastic.formats.quantized import Quantized, QuantizedPieces, Torn, pieces_of
from nemo_elastic.formats.raw import Raw
from nemo_elastic.formats.source import Source

__all__ = ["Cuts", "cut_pieces", "cut_tensors", "kept_parts", "predicted_parts", "predicted_pieces"]


def cut_tensors(source: Source, target: Subnet, requantize: bool = False) -> Mapping[str, Raw | Quantized]:
    """Give the tensors of a member, each cut when it is asked for.

    Args:
        source: What holds it.
        target: A member nested in `source.held`.
        requantize: See `cut_pieces`.
    """
    return _Cuts(cut_pieces(source, target, requantize=requantize))


class _Cuts(Mapping[str, Raw | Quantized]):
    def __init__(self, pieces: Mapping[str, tuple[Raw | Quantized, Pieces | QuantizedPieces]]) -> None:
        self._pieces = pieces

    def __getitem__(self, name: str) -> Raw | Quantized:
        raw, pieces = self._pieces[name]
        return pieces.whole() if isinstance(pieces, QuantizedPieces) else Raw(raw.dtype, pieces.whole())

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


Parts = dict[str, tuple[str, tuple[Selection, ...]]]
Cuts = dict[str, tuple[Raw | Quantized, Pieces | QuantizedPieces]]


def kept_parts(source: Source, target: Subnet) -> Parts:
    """Give, for each tensor of a member in storage order, the source's name of it and what stays of each dimension.

    Args:
        source: What holds it.
        target: A member nested in `source.held`.
    """
    parent, held = source.parent, source.held
    return _parts(parent, held, target, layout.tensors(parent, held), layout.tensors(parent, target))


def predicted_parts(source: Source, target: Subnet) -> Parts:
    """The same of layers that predict more than one token, as far as the member has them; see `left_out`."""
    if source.predicts is None:
        return {name: (name, ()) for name in source.prediction} if target == source.held else {}
    behind, parent = source.predicts, source.parent
    held, kept = behind.member(parent, source.held), behind.member(parent, target)
    if held is None or kept is None:
        return {}
    ours, theirs = behind.tensors(parent, source.held), behind.tensors(parent, target)
    return _parts(behind.behind(parent), held, kept, ours, theirs)


def _parts(
    parent: Parent, held: Subnet, target: Subnet, ours: Sequence[layout.Tensor], theirs: Sequence[layout.Tensor]
) -> Parts:
    names = {(t.row.name, t.index, t.number): t.hf for t in ours}
    out: Parts = {}
    selections: dict[tuple[str, int | None], tuple[Selection, ...]] = {}  # all experts of a layer have the same
    for t in theirs:
        index = t.index
        own = layout.original(parent, t.row, t.number, held, target, index)
        kept = selections.get((t.row.name, index))
        if kept is None:
            kept = selections[t.row.name, index] = tuple(
                layout.selection(parent, t.row, dim, held, target, index) for dim in range(len(t.shape))
            )
        out[t.hf] = names[t.row.name, index, own], kept
    return out


def cut_pieces(
    source: Source, target: Subnet, right: Mapping[str, set[int]] | None = None, requantize: bool = False
) -> Cuts:
    """Give, for each tensor of a member in storage order, the source's tensor and the part of it that stays.

    Args:
        source: What holds it.
        target: A member nested in `source.held`.
        right: By name of the source's tensor, what needs no second look in this pass (`Watch`).
        requantize: Compute the codes and scales anew of weights of which a block with one scale stays in part; it
            takes torch.

    Raises:
        ElasticError: There is such a block, and `requantize` is not asked for.
    """
    return _cut_pieces(source, source.tensors, kept_parts(source, target), right, requantize)


def predicted_pieces(
    source: Source, target: Subnet, right: Mapping[str, set[int]] | None = None, requantize: bool = False
) -> Cuts:
    """The same of layers that predict more than one token; see `predicted_parts`."""
    return _cut_pieces(source, source.prediction, predicted_parts(source, target), right, requantize)


def _cut_pieces(
    source: Source,
    tensors: Mapping[str, Raw | Quantized],
    parts: Parts,
    right: Mapping[str, set[int]] | None,
    requantize: bool,
) -> Cuts:
    out: Cuts = {}
    for own, (name, kept) in parts.items():
        raw = tensors[name]
        try:
            out[own] = raw, pieces_of(name, raw, kept, right, requantize)
        except Torn as torn:
            raise ElasticError(f"{source.folder}: {name} in {raw.dtype} cannot be cut as bytes: {torn}") from None
    return out
