# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sorting a megatron-core model where it lies: `ranking.sorting` on shards.

Heads never leave their group and a rank holds whole groups, so their tensors are sorted without a word to other ranks.
FFN neurons are dealt to all stripes by importance, so they change ranks: their tensors are gathered, one at a time.
Experts change places, also to those of other ranks, each with its own order of neurons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import Tensor, groups, megatron_selection, megatron_tensors
from nemo_elastic.core.prediction import END, START, Prediction
from nemo_elastic.core.prefix import Selection
from nemo_elastic.ranking import Ranking, permutation
from nemo_elastic.ranking.sorting import number_before


@dataclass(frozen=True)
class Together:
    """Ranks that hold a model together; None for one.

    Attributes:
        tensor: share each tensor.
        experts: share the experts, each as many.
        expert: share each tensor of an expert.
    """

    tensor: dist.ProcessGroup | None = None
    experts: dist.ProcessGroup | None = None
    expert: dist.ProcessGroup | None = None


@torch.no_grad()
def sort_in_place(
    parameters: Mapping[str, torch.Tensor],
    ranking: Ranking,
    parent: Parent,
    together: Together | None = None,
    prediction: Prediction | None = None,
) -> None:
    """Permute weights so that every nested width is a blocked prefix; the model's function stays the same.

    Args:
        parameters: this rank's shard of every tensor, by megatron-core's name; it numbers its own experts from 0.
        ranking: of the whole model.
        parent: its shape, with the FFN stripes that the sorted model has.
        together: the ranks, which all call this.
        prediction: the layers behind it, which read its stream.

    Raises:
        ElasticError: the ranking is of another parent, or a rank holds a part of a block.
    """
    ranking.check(parent)
    together = together or Together()
    _sort_table(parameters, ranking, parent, megatron_tensors(parent, parent.full), together)
    if prediction is not None:
        own, table = prediction.behind(parent), prediction.megatron_tensors(parent, parent.full)
        _sort_table(parameters, ranking.of_behind(own), own, table, together)


def _sort_table(
    parameters: Mapping[str, torch.Tensor],
    ranking: Ranking,
    parent: Parent,
    table: Mapping[str, list[Tensor]],
    together: Together,
) -> None:
    names = {(t.row.name, t.index, t.number): name for name, parts in table.items() for t in parts}
    for name, parts in table.items():
        row, number = parts[0].row, parts[0].number
        if number is None:  # a step's own tensors are on all ranks
            group = None if row in (*START, *END) else together.tensor
            _sort(parameters[name].data, parameters[name].data, ranking, parent, parts, group)
        elif number == 0:
            every = [names[row.name, parts[0].index, n] for n in range(parent.size(str(row.each)))]
            _sort_experts(parameters, ranking, parent, parts[0], every, together)


def _sort_experts(
    parameters: Mapping[str, torch.Tensor],
    ranking: Ranking,
    parent: Parent,
    first: Tensor,
    names: Sequence[str],
    together: Together,
) -> None:
    """All tensors of a row of which each expert of a layer has one: first to their places, then each by itself."""
    group, row = together.experts, first.row
    ranks, rank = (1, 0) if group is None else (group.size(), group.rank())
    count = len(names) // ranks
    here = [parameters[name].data for name in names[:count]]
    before = [number_before(ranking, parent, row, first.index, n) for n in range(count * ranks)]
    for n, value in enumerate(_dealt(here, np.array(before).reshape(ranks, count), group)):
        own = replace(first, number=rank * count + n)
        _sort(here[n], value, ranking, parent, [own], together.expert)


def _dealt(here: Sequence[torch.Tensor], before_rn: np.ndarray, group: dist.ProcessGroup | None) -> list[torch.Tensor]:
    """Copies of the experts that this rank gets.

    Args:
        here: those that it has.
        before_rn: which expert each rank gets in each of its places.
        group: the ranks.
    """
    ranks, count = before_rn.shape
    rank, holder_rn = 0 if group is None else group.rank(), before_rn // count
    sent = torch.stack([here[e % count] for e in before_rn.reshape(-1) if e // count == rank])
    if group is None or ranks == 1:
        return list(sent)
    taken = torch.empty_like(sent)
    from_each, to_each = np.bincount(holder_rn[rank], minlength=ranks), (holder_rn == rank).sum(1)
    dist.all_to_all_single(taken, sent, from_each.tolist(), to_each.tolist(), group=group)
    places = np.argsort(holder_rn[rank], kind="stable")  # they come in the order of their ranks
    return [taken[at] for at in np.argsort(places)]


def _sort(
    target: torch.Tensor,
    value: torch.Tensor,
    ranking: Ranking,
    parent: Parent,
    parts: list[Tensor],
    group: dist.ProcessGroup | None,
) -> None:
    """Write into a weight what `value`, this rank's shard of it, becomes; the group's ranks share it."""
    for dim in range(value.dim()):
        order = _order(ranking, parent, parts, dim)
        if order is not None and dim == parts[0].row.parallel and group is not None and group.size() > 1:
            value = _take_sharded(value, order, _whole(parent, parts, dim).shares(group.size()), dim, group)
        elif order is not None:
            value = value.index_select(dim, torch.from_numpy(order).to(value.device))
    if value is not target:
        target.copy_(value)


def _take_sharded(
    value: torch.Tensor, order: np.ndarray, shares_rn: np.ndarray, dim: int, group: dist.ProcessGroup
) -> torch.Tensor:
    """This rank's shard of a tensor whose dimension `dim` was sorted.

    Args:
        value: this rank's shard as it is.
        order: position i of the sorted dimension holds position order[i].
        shares_rn: positions that each rank holds.
        dim: the sharded dimension.
        group: the ranks.
    """
    ranks, each = shares_rn.shape
    assert value.shape[dim] == each
    at = np.empty_like(order)  # whole position -> place in the shards, one behind the other
    at[shares_rn.reshape(-1)] = np.arange(ranks * each)
    source_rn = at[order[shares_rn]]
    start = group.rank() * each
    if np.array_equal(source_rn // each, np.arange(ranks)[:, None].repeat(each, 1)):
        local = source_rn[group.rank()] - start
    else:
        shards = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(ranks)]
        dist.all_gather(shards, value.contiguous(), group=group)
        value, local = torch.cat(shards, dim), source_rn[group.rank()]
    return value.index_select(dim, torch.from_numpy(local).to(value.device))


def _whole(parent: Parent, parts: list[Tensor], dim: int) -> Selection:
    """A dimension of a whole Megatron tensor, as its ranks share it."""
    index = parts[0].layer.index if parts[0].layer is not None else None
    return megatron_selection(parent, parts[0].row, dim, parent.full, parent.full, index)


def _order(ranking: Ranking, parent: Parent, parts: list[Tensor], dim: int) -> np.ndarray | None:
    """`permutation` of a dimension of a whole Megatron tensor, which may hold several rows of the layout table."""
    index = parts[0].layer.index if parts[0].layer is not None else None
    orders = [permutation(ranking, parent, t.row, dim, index, t.number) for t in parts]
    if len(parts) == 1 or dim > 0:  # columns are the same in all parts
        return orders[0]
    if all(order is None for order in orders):
        return None
    rows = tuple(t.shape[0] for t in parts)
    starts = np.cumsum([0, *rows[:-1]])
    each = (np.arange(n) if order is None else order for n, order in zip(rows, orders, strict=True))
    side_by_side = np.concatenate([at + order for at, order in zip(starts, each, strict=True)])
    fused = _interleaved(rows, groups(parent, parts[0].row, parts[0].layer))
    return np.argsort(fused)[side_by_side[fused]]


@lru_cache
def _interleaved(rows: tuple[int, ...], groups: int) -> np.ndarray:
    """Rows of several tensors, one behind the other, in the order in which a fused one interleaves them."""
    starts = np.cumsum([0, *rows[:-1]])
    parts = [(at + np.arange(n)).reshape(groups, -1) for at, n in zip(starts, rows, strict=True)]
    return np.concatenate(parts, axis=1).reshape(-1)
