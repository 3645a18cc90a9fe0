# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The space of shapes inside a trained family."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Subnet, choices_of
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.manifest import Family
from nemo_elastic.search.space import Space


def trained_space(family: Family, start: Subnet) -> Space:
    """All shapes inside a family that its axes allow, and one of its path among them.

    Every shape of the space can be cut out of the family: each width is a prefix of blocks, in the order in which the
    parent was sorted. An axis that was trained with one width for all layers keeps one, unless `start` itself has
    several.

    Args:
        family: its axes, members and drop order count.
        start: a shape of the family's path (`core.sizes.path`).

    Returns:
        The space, with `start` in it.
    """
    axes: dict[str, AxisConfig] = {}
    for name, axis in family.axes.items():
        used = {len(start.layers)} if name == DEPTH else set(choices_of(family.parent, start, name))
        per_layer = axis.per_layer or (name not in (HIDDEN, DEPTH) and len(used) > 1)
        choices = tuple(sorted({*axis.choices, *used}, reverse=True))
        axes[name] = AxisConfig(choices, per_layer, keep_attention=_attention(family) if name == DEPTH else None)
    return Space(family.parent, axes, tuple(_drop_order(family)))


def _attention(family: Family) -> int:
    """Attention layers that a shape must keep: one, if every member kept one."""
    return min(1, *(len(family.parent.attention_layers.intersection(m.subnet.kept)) for m in family))


def _drop_order(family: Family) -> Iterator[int]:
    """All layers in the order in which the path loses them: what members lack first, as `core.sizes` drops it."""
    order = family.drop_order or range(family.parent.num_layers - 1, -1, -1)
    for upper, lower in pairwise(m.subnet for m in family):
        yield from (i for i in order if i in upper.by_index and i not in lower.by_index)
    yield from (i for i in order if i in family.members[-1].subnet.by_index)
