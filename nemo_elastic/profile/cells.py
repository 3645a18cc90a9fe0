# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured: each kind of layer at chosen widths, in models that differ in the number of such layers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import DTYPE_BYTES, parameters
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.latency import OUTSIDE

__all__ = ["Cell", "Widths", "cells", "layer_of", "layers_for", "model_of", "widths_of"]

#: `OUTSIDE` and names of kinds -> axis -> widths, ascending; the residual width first
Widths = Mapping[str, Mapping[str, Sequence[int]]]
#: entries of the vocabulary of models that measure layers: embedding and head only add noise there
VOCABULARY = 256
#: fewest layers of the smaller model, the most, and bytes that its weights should have: a part of what lies in a
#: processor's caches is read faster than it is in a whole model (by a fifth, where all weights were 300 MB)
FEW, MANY, LARGE = 2, 32, 4.5e8


@dataclass(frozen=True)
class Cell:
    """One entry of a table: a kind of layer, or what is outside of layers, at one width of each axis.

    Attributes:
        kind: its name, or `OUTSIDE`.
        place: in the lists of the kind.
        widths: axis -> choice, the residual width first.
    """

    kind: str
    place: int
    widths: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.kind} {' x '.join(map(str, self.widths.values()))}"


def widths_of(parent: Parent, axes: Mapping[str, AxisConfig], most: int) -> Widths:
    """Widths that are measured: of each axis the smallest and the largest choice and some between, `most` in all."""

    def some(axis: str) -> tuple[int, ...]:
        every = sorted(axes[axis].choices)
        wanted = np.linspace(every[0], every[-1], min(most, len(every)))
        return tuple(sorted({min(every, key=lambda width, at=at: abs(width - at)) for at in wanted}))

    kinds = {name: parent.kind(name).widths for name in dict.fromkeys(parent.types)} | {OUTSIDE: ()}
    return {name: {axis: some(axis) for axis in (HIDDEN, *own)} for name, own in kinds.items()}


def cells(widths: Widths) -> Iterator[Cell]:
    """Every entry, those outside of layers last."""
    for kind, axes in widths.items():
        for place, chosen in enumerate(product(*axes.values())):
            yield Cell(kind, place, dict(zip(axes, chosen, strict=True)))


def layers_for(parent: Parent, cell: Cell, widths: Widths, dtype: str) -> int:
    """How many layers the smaller of both models has of what differs: of a cell's kind, or of each for `OUTSIDE`."""
    least, more = (parameters(*model_of(parent, cell, number, widths)) for number in (1, 2))
    wanted = LARGE / DTYPE_BYTES[dtype] - (least if cell.kind == OUTSIDE else 0)
    return int(min(MANY, max(FEW, -(-wanted // (more - least)))))


def layer_of(parent: Parent, cell: Cell) -> Subnet:
    """A member that is the embedding, one layer of a cell and the head."""
    return Subnet(cell.widths[HIDDEN], (_layer(parent, parent.types.index(cell.kind), cell.kind, cell.widths),))


def model_of(parent: Parent, cell: Cell, number: int, widths: Widths) -> tuple[Parent, Subnet]:
    """A model that measures a cell: so many layers of its kind, and one of each other kind, as engines want hybrids.

    Args:
        parent: whose layers.
        cell: what is measured.
        number: layers of its kind; of each kind for what is outside of layers.
        widths: of `widths_of`; the other kinds' layers have the smallest.

    Returns:
        A parent with as many layers, and the member of it that is run.
    """
    others = [name for name in dict.fromkeys(parent.types) if name != cell.kind]
    names = others * number if cell.kind == OUTSIDE else [*others, *[cell.kind] * number]
    vocabulary = parent.vocab if cell.kind == OUTSIDE else min(parent.vocab, VOCABULARY)
    pattern = "".join(parent.kind(name).symbol for name in names)
    own = replace(parent, pattern=pattern, sizes=dict(parent.sizes) | {"vocab": vocabulary})
    choices = {name: {axis: least for axis, (least, *_) in axes.items()} for name, axes in widths.items()}
    choices[cell.kind] = dict(cell.widths)
    layers = tuple(_layer(own, i, name, choices[name]) for i, name in enumerate(names))
    return own, Subnet(cell.widths[HIDDEN], layers).validate(own)


def _layer(parent: Parent, index: int, kind: str, choices: Mapping[str, int]) -> Layer:
    return Layer(index, kind, parent.widths(kind, {axis: choices[axis] for axis in parent.kind(kind).widths}))
