# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A parent's weights, sorted by a ranking when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.tensor import SPAN, Tensor
from nemo_elastic.ranking import Ranking, norm_before, number_before, permutation, rotated

__all__ = ["sort"]


def sort(source: Checkpoint, parent: Parent, ranking: Ranking) -> Checkpoint:
    """An opened parent, sorted: folded, rotated, permuted. `parent` is its shape with stripes.

    Layers that predict further tokens stay, in the order of the stream, where they are known and nothing is rotated:
    a rotation needs a head of theirs, into which the norm before it folds.
    """
    tensors = dict(_sorted(source, layout.tensors(parent, parent.full), parent, ranking))
    prediction = source.prediction if ranking.basis is None else None
    if prediction is not None:
        whole = prediction.extend(parent)
        stream = Ranking.of_hidden_order(whole, ranking.orders[HIDDEN])
        tensors |= _sorted(source, prediction.tensors(parent, parent.full), whole, stream)
    return replace(source, parent=parent, subnet=parent.full, tensors=tensors, prediction=prediction)


def _sorted(
    source: Checkpoint, tensors: Sequence[layout.Tensor], parent: Parent, ranking: Ranking
) -> Iterator[tuple[str, Tensor]]:
    """Each of some tensors of the parent by its name."""
    names = {(t.row.name, t.index, t.number): t.hf for t in tensors}
    for t in tensors:
        orders = [permutation(ranking, parent, t.row, dim, t.index, t.number) for dim in range(len(t.shape))]
        was = None if t.number is None else number_before(ranking, parent, t.row, t.index, t.number)
        tensor = source.tensors[names[t.row.name, t.index, was]].permute(orders)
        if ranking.basis is not None:
            norm = norm_before(parent, t.row)
            weight = None if norm is None else source.tensors[layout.named(norm.hf, t.index)]
            tensor = _rotated(tensor, t.row, ranking.basis, weight)
        yield t.hf, tensor


def _rotated(tensor: Tensor, row: Row, basis: np.ndarray, norm: Tensor | None) -> Tensor:
    """`ranking.rotated` of a tensor when its rows are asked for."""
    writes = row.dims[0] == ((HIDDEN,),)

    def rows(first: int, last: int) -> np.ndarray:
        some = tensor.words if writes else tensor.rows(first, last)
        weight = None if norm is None else norm.torch()
        done = Tensor.of(rotated(Tensor.of_words(tensor.dtype, some).torch(), row, basis, weight)).words
        return done[first:last] if writes else done

    out = Tensor.made(tensor.dtype, tensor.shape, rows, tensor)
    # every row of a tensor that writes the stream needs all of its rows: they are one piece
    return replace(out, span=max(1, SPAN // tensor.count)) if writes else out
