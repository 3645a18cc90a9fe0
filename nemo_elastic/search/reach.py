# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a parent and the axes of a block reach its budgets, before layers are ranked."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.limits import Limit
from nemo_elastic.search.space import Space


def check_block(config: ElasticConfig, parent: Parent, counted: bool = True) -> Parent:
    """Check axes and, with `counted`, budgets against a parent; returns the parent with the block's stripes."""
    parent = config.parent_shape(parent)
    axes = config.resolve_axes(parent)
    if counted:
        config.targets(parent)
        for budget in config.budgets:
            for limit in budget.limits:
                single = Budget(budget.name, **{limit.field: limit.value})
                Space(parent, axes, _heaviest_first(parent, axes, limit)).check_budgets([single])
    return parent


def _heaviest_first(parent: Parent, axes: Mapping[str, AxisConfig], limit: Limit) -> list[int]:
    """Layers by falling cost at their smallest widths.

    The order in which layers go is not known before they are ranked. This one reaches the smallest member that any
    order could: a limit that it misses, every ranking misses.
    """
    layers = range(parent.num_layers)
    if len(axes[DEPTH].choices) == 1:
        return list(layers)
    widths = {name: axis.choices[-1] for name, axis in axes.items() if name != DEPTH}
    alone = {i: limit.cost(parent, parent.uniform([i], **widths)) for i in layers}
    return sorted(layers, key=lambda i: -alone[i])
