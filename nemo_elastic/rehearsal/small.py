# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A parent and its elastic block with narrow layers: as many layers, groups, stripes and choices as before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM
from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.core.kinds.moe import EXPERT_FFN, SHARED_FFN
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.limits import LatencyLimit, RatioLimit
from nemo_elastic.core.precision import BLOCK, NVFP4
from nemo_elastic.plan import NODE

#: axes of the columns of weights that NVFP4 stores in blocks
OF_BLOCKS = (HIDDEN, FFN, MAMBA_HEAD_DIM, EXPERT_FFN, SHARED_FFN)


@dataclass(frozen=True)
class Narrow:
    """How narrow a rehearsal's layers are.

    Attributes:
        least: axis -> the smallest choice is at least so wide, in each of the axis's blocks; 1 unless given.
        multiple: axis -> every choice is a multiple of it, in each block; 1 unless given.
        state, head_channels, vocab: SSM state, channels of an attention head, tokens.
    """

    least: Mapping[str, int]
    multiple: Mapping[str, int]
    state: int
    head_channels: int
    vocab: int


#: widths that two cores train, and that a GPU's kernels take: mamba_ssm wants rows and head sizes that 8 divides, and
#: transformers' product of many experts theirs, on a CPU, too
ON_CPU = Narrow(
    least={HIDDEN: 48, FFN: 8, MAMBA_HEAD_DIM: 4},
    multiple={HIDDEN: 2, EXPERT_FFN: 8},
    state=8,
    head_channels=4,
    vocab=512,
)
ON_GPU = Narrow(
    least={HIDDEN: 192, FFN: 16, MAMBA_HEAD_DIM: 32},
    multiple={HIDDEN: 8, FFN: 8, MAMBA_HEAD_DIM: 8, EXPERT_FFN: 8},
    state=16,
    head_channels=32,
    vocab=512,
)


def narrow(parent: Parent, config: ElasticConfig, by: Narrow) -> tuple[Parent, ElasticConfig]:
    """The parent and the block with choices in the same proportions, and budgets that are the same shares.

    Args:
        parent: shape with its vocabulary.
        config: its block.
        by: how narrow.

    Returns:
        Both. Members of the one are members of the other, with other numbers on their axes.
    """
    parent, multiple = config.parent_shape(parent), dict(by.multiple)
    choices = config.choices(parent)
    blocks = {name: parent.axis(name).blocks for name in parent.axes if name != DEPTH}
    if config.distill.quantize == NVFP4:  # whole blocks, as the recipe's own widths have
        multiple |= {name: math.lcm(multiple.get(name, 1), BLOCK) for name in OF_BLOCKS}
    for kind in parent.kinds:  # heads of one block that context-parallel ranks, those of a node at most, share out
        if kind.cp_axis is not None and kind.cp_splits_groups:
            multiple[kind.cp_axis] = math.lcm(multiple.get(kind.cp_axis, 1), max(1, NODE // blocks[kind.cp_axis]))
    less = {
        name: _narrower(choices[name], count, by.least.get(name, 1), multiple.get(name, 1))
        for name, count in blocks.items()
    }
    small = replace(
        parent,
        **{axis: choices[0] for axis, choices in less.items()},
        state=by.state,
        attention_head_dim=by.head_channels,
        vocab=by.vocab,
    )
    axes: dict[str, AxisConfig] = {
        name: replace(axis, choices=less.get(name, axis.choices)) for name, axis in config.axes.items()
    }
    budgets = tuple(_same_share(budget, parent, small) for budget in config.budgets)
    return small, replace(config, axes=axes, budgets=budgets)


def _narrower(choices: tuple[int, ...], blocks: int, least: int, multiple: int) -> tuple[int, ...]:
    """The smallest widths in the same proportions that are wide enough and multiples of a number, in each block."""
    unit = math.gcd(*choices) // blocks
    shares = [width // (blocks * unit) for width in choices]
    factor = -(-least // shares[-1])
    while any(share * factor % multiple for share in shares):
        factor += 1
    return tuple(blocks * share * factor for share in shares)


def _same_share(budget: Budget, parent: Parent, small: Parent) -> Budget:
    """A budget whose limits are the same shares of the small parent, in parameters or bytes.

    A table of latencies is of one parent: the same share in parameters stands in for it.
    """
    if budget.is_parent:
        return budget
    same: dict[str, Any] = {}
    for x in sorted(budget.limits, key=lambda x: isinstance(x, LatencyLimit)):
        share = x.share_of(parent)
        if isinstance(x, LatencyLimit):
            same |= {RatioLimit.field: min(share, same.get(RatioLimit.field, 1.0)), x.field: None}
        else:
            same[x.field] = x.moved(share * x.cost(small, small.full))
    return replace(budget, **same)
