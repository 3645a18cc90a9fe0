# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Scores -> orders: channels of every axis from most to least important.

An order is a list of channel numbers. Where an axis has groups that channels may not leave (Mamba heads share the B
and C of their group, query heads the key and value of theirs), the list alternates over the groups: best of group 0,
best of group 1, ..., second of group 0, ... `BlockedPrefix.order_to_layout` turns any order into the storage order.
Where each channel of one axis has an order of its own on another (neurons of each expert), there is a row for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.registry import HIDDEN, layer_axes
from nemo_elastic.errors import ElasticError

Orders = Mapping[str, np.ndarray]


def names(parent: Parent) -> Iterator[tuple[str, str, int | None]]:
    """Every order of a parent: (name, axis, layer index), e.g. ("ffn.3", "ffn", 3); hidden has layer None.

    An axis that is the blocks of another one is ordered by what lies in the blocks (`block_order`).
    """
    yield HIDDEN, HIDDEN, None
    for i, kind in enumerate(map(parent.kind, parent.types)):
        for axis in kind.widths:
            if axis not in kind.nested.values():
                yield f"{axis}.{i}", axis, i


def block_order(scores: np.ndarray, blocks: int) -> np.ndarray:
    """Blocks from most to least important: by the norm of the scores of their channels; ties keep their order."""
    return order(np.linalg.norm(np.asarray(scores).reshape(blocks, -1), axis=1))


def order(scores: np.ndarray, groups: int = 1) -> np.ndarray:
    """Channels from most to least important; ties keep their storage order.

    Args:
        scores: importance, shape [size].
        groups: equal blocks of channels; each is ranked on its own and the ranks alternate over them.

    Returns:
        Channel numbers, int64, shape [size].
    """
    per_group = np.asarray(scores).reshape(groups, -1)
    inside = np.argsort(-per_group, axis=1, kind="stable")
    return (inside + np.arange(groups)[:, None] * per_group.shape[1]).T.reshape(-1).astype(np.int64)


def make_orders(parent: Parent, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orders of all axes from the `Statistics.scores` of a parent."""
    return {name: _each(scores[name], _groups(parent, axis)) for name, axis, _ in names(parent)}


def _each(scores: np.ndarray, groups: int) -> np.ndarray:
    """An order, or one for each row of scores."""
    return order(scores, groups) if scores.ndim == 1 else np.stack([order(row, groups) for row in scores])


def shape(parent: Parent, axis: str) -> tuple[int, ...]:
    """Shape of the orders of an axis in one layer: [size], or a row for each channel that has its own."""
    size = parent.axis(axis).size
    each = None if axis == HIDDEN else layer_axes()[axis][1].each
    return (size,) if each is None else (parent.axis(each).size, size)


def identity(parent: Parent) -> dict[str, np.ndarray]:
    """Orders that leave heads where they are, and with one FFN stripe everything else, too."""
    return {name: _each(np.zeros(shape(parent, axis)), _groups(parent, axis)) for name, axis, _ in names(parent)}


def unmoved(parent: Parent) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Orders by which nothing moves in storage, and scores of which they, and those of blocks, are the orders."""
    orders: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    for name, axis, layer in names(parent):
        orders[name] = np.broadcast_to(_still(parent, axis), shape(parent, axis)).copy()
        scores[name] = np.zeros(orders[name].shape)
        blocks = {} if layer is None else parent.kind(parent.types[layer]).nested
        if axis in blocks:  # blocks that lie in blocks themselves
            each = np.empty(parent.size(blocks[axis]))
            each[_still(parent, blocks[axis])] = np.arange(len(each), 0, -1)
            scores[name] = each.repeat(len(scores[name]) // len(each))
    return orders, scores


def _still(parent: Parent, axis: str) -> np.ndarray:
    """The order that `BlockedPrefix.order_to_layout` leaves where it is."""
    own = parent.axis(axis)
    return np.arange(own.size).reshape(own.blocks, -1).T.reshape(-1)


def check_orders(parent: Parent, orders: Orders) -> None:
    """Raise `ElasticError` unless every order is there, is a permutation, and keeps heads inside their groups."""
    expected = {name: axis for name, axis, _ in names(parent)}
    for name in sorted(set(expected) ^ set(orders)):
        raise ElasticError(f"ranking: order {name!r} is {'missing' if name in expected else 'not of this parent'}")
    for name, axis in expected.items():
        size, groups = parent.axis(axis).size, _groups(parent, axis)
        given, wanted = np.asarray(orders[name]), shape(parent, axis)
        if given.shape != wanted or given.dtype.kind != "i" or np.any(np.sort(given) != np.arange(size)):
            raise ElasticError(f"ranking: order {name!r} is not a permutation of its {size} channels")
        if np.any(given // (size // groups) != np.tile(np.arange(groups), size // groups)):
            raise ElasticError(f"ranking: order {name!r} moves a head out of its group of {size // groups}")


def _groups(parent: Parent, axis: str) -> int:
    """Groups that a channel belongs to; elsewhere blocks are only a layout in storage."""
    return parent.axis(axis).blocks if axis != HIDDEN and layer_axes()[axis][1].grouped else 1
