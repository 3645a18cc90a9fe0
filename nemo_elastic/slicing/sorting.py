# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A parent's weights, sorted by a ranking when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.tensor import SPAN, Tensor
from nemo_elastic.ranking import Ranking, norm_before, number_before, permutation, rescaling, rotated

if TYPE_CHECKING:
    import torch

__all__ = ["sort", "sorted_prediction"]


def sort(source: Checkpoint, parent: Parent, ranking: Ranking) -> Checkpoint:
    """An opened parent, sorted: folded, rotated, permuted. `parent` is its shape with stripes."""
    tensors = dict(_sorted(source, layout.tensors(parent, parent.full), parent, ranking))
    tensors |= sorted_prediction(source, parent, ranking)
    return replace(source, parent=parent, subnet=parent.full, tensors=tensors)


def sorted_prediction(source: Checkpoint, parent: Parent, ranking: Ranking) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the MTP layers by its name, where they are known: only the stream is sorted."""
    prediction = source.prediction
    if prediction is None:
        return
    whole, rows = prediction.extend(parent), prediction.tensors(parent, parent.full)
    if ranking.basis is None:
        yield from _sorted(source, rows, whole, Ranking.of_hidden_order(whole, ranking.orders[HIDDEN]))
        return
    for _, step in groupby(rows, lambda t: ((t.index or 0) - parent.num_layers) // len(prediction.pattern)):
        yield from _rotated_step(source, whole, list(step), ranking.basis)


def _rotated_step(
    source: Checkpoint, whole: Parent, step: Sequence[layout.Tensor], basis: np.ndarray
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one step of MTP layers in the basis of the model; see `ranking.rescaling`."""
    import torch

    norms = {(t.row.name, t.row.layer and t.index): source.tensors[t.hf].torch().double()
             for t in step if layout.is_stream_norm(t.row)}  # fmt: skip
    shared = source.tensors[layout.by_name("final_norm").hf].torch().double()
    scale, last = rescaling(norms["prediction.norm", None], shared)
    # of what `hnorm` read, the trunk's final norm has left its weight in the head
    hidden = norms["prediction.hnorm", None] * shared / shared.square().mean().sqrt()
    for t in step:
        tensor, before = source.tensors[t.hf], norm_before(whole, t.row)
        norm = None if before is None else norms[before.name, t.index] / scale
        if t.row.name == "prediction.norm":
            yield t.hf, Tensor.of(last.repeat(tensor.shape)).cast(tensor.dtype, t.hf)
            continue
        if t.row.name == "prediction.eh_proj":
            norm = torch.cat([norms["prediction.enorm", None], hidden])
        yield t.hf, _rotated(tensor, t.row, basis, None if norm is None else Tensor.of(norm), scale)


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


def _rotated(
    tensor: Tensor, row: Row, basis: np.ndarray, norm: Tensor | None, scale: torch.Tensor | None = None
) -> Tensor:
    """`ranking.rotated` of a tensor when its rows are asked for."""
    writes = row.dims[0] == ((HIDDEN,),)

    def rows(first: int, last: int) -> np.ndarray:
        some = tensor.words if writes else tensor.rows(first, last)
        weight = None if norm is None else norm.torch()
        done = Tensor.of(rotated(Tensor.of_words(tensor.dtype, some).torch(), row, basis, weight, scale)).words
        return done[first:last] if writes else done

    out = Tensor.made(tensor.dtype, tensor.shape, rows, tensor)
    # every row of a tensor that writes the stream needs all of its rows: they are one piece
    return replace(out, span=max(1, SPAN // tensor.count)) if writes else out
