# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A parent's weights, sorted by a ranking when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.formats.low_precision import Weights
from nemo_elastic.formats.source import Source
from nemo_elastic.formats.tensor import SPAN, Tensor
from nemo_elastic.ranking import Ranking, norm_before, number_before, permutation, rotated

__all__ = ["sorted_weights"]


def sorted_weights(source: Source, parent: Parent, ranking: Ranking) -> tuple[Weights, Weights]:
    """The weights of an opened parent, and those of layers that predict further tokens; `parent` has the stripes."""
    weights = _sorted(layout.tensors(parent, parent.full), source.tensors, parent, ranking)
    behind: dict[str, Tensor] = {}
    if source.predicts is not None and ranking.basis is None:
        shape = source.predicts.behind(parent)
        own = source.predicts.tensors(parent, parent.full)
        behind = _sorted(own, source.prediction, shape, Ranking.of_stream(shape, ranking.orders[HIDDEN]))
    return Weights(weights), Weights(behind)


def _sorted(
    tensors: Sequence[layout.Tensor], stored: Mapping[str, Tensor], parent: Parent, ranking: Ranking
) -> dict[str, Tensor]:
    names = {(t.row.name, t.index, t.number): t.hf for t in tensors}
    out = {}
    for t in tensors:
        orders = [permutation(ranking, parent, t.row, dim, t.index, t.number) for dim in range(len(t.shape))]
        was = None if t.number is None else number_before(ranking, parent, t.row, t.index, t.number)
        out[t.hf] = stored[names[t.row.name, t.index, was]].permute(orders)
        if ranking.basis is not None:
            norm = norm_before(parent, t.row)
            weight = None if norm is None else stored[layout.named(norm.hf, t.index)]
            out[t.hf] = _rotated(out[t.hf], t.row, ranking.basis, weight)
    return out


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
