# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which ranks can share a sequence out (context parallelism): inside of some layers they share heads."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent

__all__ = ["why_not_context"]


def why_not_context(parent: Parent, axes: Mapping[str, AxisConfig], tensor: int, context: int) -> str | None:
    """What forbids a context-parallel size, in words; None where nothing does.

    Every member must be shared equally: its Mamba groups whole, for a group's norm is over all of its heads; of
    attention key-value heads, or the query heads of one.

    Args:
        parent: shape of the parent.
        axes: choices of widths, `ElasticConfig.resolve_axes(parent)`.
        tensor: tensor-parallel size, which divides all blocks.
        context: the size.
    """
    if context == 1:
        return None
    for kind in parent.kinds:
        if kind.along is None:
            continue
        heads = kind.axis[kind.along]
        assert heads.blocks is not None
        whole = parent.size(heads.blocks)
        for blocks in _choices(parent, axes, heads.blocks):
            own = blocks // tensor
            if own % context == 0:
                continue
            if not kind.halved or context % own:
                return f"CP {context} does not divide {own} {heads.block_words} of a rank"
            for choice in _choices(parent, axes, heads.name):
                count = choice * blocks // whole // tensor
                if count % context:
                    return f"CP {context} does not divide {count} {heads.words} of a rank"
    return None


def _choices(parent: Parent, axes: Mapping[str, AxisConfig], name: str) -> tuple[int, ...]:
    return axes[name].choices if name in axes else (parent.size(name),)
