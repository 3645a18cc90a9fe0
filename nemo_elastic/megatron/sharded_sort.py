# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sorting a megatron-core model where it lies: `ranking.sorting` on shards.

FFN neurons are dealt to all stripes by importance, and experts change places, each with its own order of neurons: both
change ranks. So each rank gathers a tensor, or a row's tensors of all experts of a layer, and keeps its shard of what
that becomes. It does so one at a time and before the first step, while there are no activations: in bfloat16 the 12B's
largest tensor takes 0.23 GB whole, the 128 matrices of a row of the 30B-A3B's 1.3 GB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import Tensor, groups, is_stream_norm, megatron_selection, megatron_tensors, named
from nemo_elastic.ranking import Ranking, norm_before, permutation, rotated
from nemo_elastic.ranking.sorting import number_before

from .linear import gather


@torch.no_grad()
def sort_in_place(parameters: Mapping[str, torch.Tensor], ranking: Ranking, parent: Parent) -> None:
    """Sort weights so that every nested width is a blocked prefix; the model's function stays the same.

    Every rank has the whole residual stream of its tensors, so a rotation needs no other rank.

    All ranks that share the model call this.

    Args:
        parameters: this rank's shard of every tensor, by megatron-core's name; it numbers its own experts from 0.
        parent: its shape, with the FFN stripes that the sorted model has.
    """
    ranking.check(parent)
    group = parallel_state.get_tensor_model_parallel_group()
    experts: dict[tuple[str, int | None], list[tuple[str, Tensor]]] = {}
    table = megatron_tensors(parent, parent.full)
    norms = {name: parameters[name].clone() for name, (t, *_) in table.items() if is_stream_norm(t.row)}
    for name, parts in table.items():
        first = parts[0]
        if first.number is not None:
            experts.setdefault((first.row.name, first.index), []).append((name, first))
            continue
        parameters[name].copy_(_sorted(parameters[name], ranking, parent, parts, group, norms))
    for each in experts.values():
        _sort_experts(parameters, ranking, parent, each, norms)


def _sort_experts(
    parameters: Mapping[str, torch.Tensor],
    ranking: Ranking,
    parent: Parent,
    each: Sequence[tuple[str, Tensor]],
    norms: Mapping[str, torch.Tensor],
) -> None:
    """All tensors of a row of which each expert of a layer has one, by name: first to their places, then inside."""
    group, shards = parallel_state.get_expert_model_parallel_group(), parallel_state.get_expert_tensor_parallel_group()
    assert group is not None
    count = len(each) // group.size()
    here = [parameters[name] for name, _ in each[:count]]
    before = torch.stack(here) if group.size() == 1 else gather(torch.stack(here), group)
    for param, (_, tensor) in zip(here, each[count * group.rank() :], strict=False):
        assert tensor.number is not None
        was = number_before(ranking, parent, tensor.row, tensor.index, tensor.number)
        param.copy_(_sorted(before[was], ranking, parent, [tensor], shards, norms))


def _sorted(
    value: torch.Tensor,
    ranking: Ranking,
    parent: Parent,
    parts: list[Tensor],
    group: dist.ProcessGroup | None,
    norms: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """This rank's shard of a sorted Megatron tensor from its shard of the unsorted one; the group's ranks share it."""
    for dim in range(value.dim()):
        order = _order(ranking, parent, parts, dim)
        if order is None:
            continue
        if group is not None and group.size() > 1 and dim == parts[0].row.parallel:
            whole = megatron_selection(parent, parts[0].row, dim, parent.full, parent.full, parts[0].index)
            shares_rn = whole.shares(group.size())
            value = torch.cat(gather(value, group).chunk(group.size()), dim)
            places = np.argsort(shares_rn, axis=None)  # position in the whole -> in the shards, one after the other
            order = places[order[shares_rn[group.rank()]]]
        value = value.index_select(dim, torch.from_numpy(order).to(value.device))
    if ranking.basis is None:
        return value
    norm = norm_before(parent, parts[0].row)
    weight = None if norm is None else norms[named(norm.megatron, parts[0].index)]
    return rotated(value, parts[0].row, ranking.basis, weight)


def _order(ranking: Ranking, parent: Parent, parts: list[Tensor], dim: int) -> np.ndarray | None:
    """`permutation` of a dimension of a whole Megatron tensor, which may hold several rows of the layout table."""
    first = parts[0]
    orders = [permutation(ranking, parent, t.row, dim, first.index, t.number) for t in parts]
    if len(parts) == 1 or dim > 0:  # columns are the same in all parts
        return orders[0]
    if all(order is None for order in orders):
        return None
    count = groups(parent, first.row, first.layer)  # each group has rows of every part
    rows = [t.shape[0] // count for t in parts]
    places = np.split(np.arange(count * sum(rows)).reshape(count, -1), np.cumsum(rows)[:-1], axis=1)
    moved = [
        each if order is None else each.reshape(-1)[order].reshape(each.shape)
        for each, order in zip(places, orders, strict=True)
    ]
    return np.concatenate(moved, axis=1).reshape(-1)
