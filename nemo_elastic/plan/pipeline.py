# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a pipeline waits for: its stages are not equal, and neither are the members that are in it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import inclusion
from nemo_elastic.core.cost import flops_per_token
from nemo_elastic.core.family import Parent, Subnet

from .activations import HALF, Sharding
from .machine import RunShape
from .memory import stages
from .work import gated_share

__all__ = ["passed_on", "wait"]


@dataclass(frozen=True)
class _Part:
    hidden: int
    layers: tuple[Any, ...]


@lru_cache(maxsize=1024)
def _stage_flops(parent: Parent, member: Subnet, pipeline: int, length: int, heads: bool) -> tuple[float, ...]:
    """Forward FLOPs per token of each stage, the head on the last of them or left out."""
    size = parent.num_layers // pipeline
    parts = [
        _Part(member.hidden, tuple(layer for layer in member.layers if layer.index // size == stage.index))
        for stage in stages(parent, pipeline)
    ]
    return tuple(
        flops_per_token(parent, part, length, head=heads and i == pipeline - 1) for i, part in enumerate(parts)
    )


def wait(
    parent: Parent, family: Mapping[str, Subnet], config: ElasticConfig, run: RunShape, recompute: bool, pipeline: int
) -> float:
    """Time of a pipeline's slot as a share of that of equal stages and equal micro-batches; 1 without a pipeline.

    In a slot every stage runs another micro-batch, each with a member of its own draw, and all go on when the slowest
    is done: the mean of the largest of so many independent draws, each at its stage's cost. That is somewhat too much,
    since a stage that is ahead does not wait at once. A stage's cost is the student's forward, its backward (twice
    that), what is recomputed, and the teacher's forward.

    Args:
        parent: shape of the model.
        family: members by budget.
        config: the block; one budget per micro-batch.
        run: the run.
        recompute: layers are checkpointed.
        pipeline: number of stages.
    """
    if pipeline == 1:
        return 1.0
    share = gated_share(config, run)
    draws: dict[Subnet, float] = {}
    for chance, member in zip(inclusion(config.weights(), 1), family.values(), strict=True):
        for which, part in ((parent.full, share), (member, 1 - share)):
            draws[which] = draws.get(which, 0.0) + chance * part

    def cost(member: Subnet) -> list[float]:
        whole, layers = (_stage_flops(parent, member, pipeline, run.seq_length, head) for head in (True, False))
        return [3 * a + (b if recompute else 0.0) for a, b in zip(whole, layers, strict=True)]

    taught = _stage_flops(parent, parent.full, pipeline, run.seq_length, True) if config.distill.taught else ()
    costs = {
        member: [c + t for c, t in zip(cost(member), taught or [0.0] * pipeline, strict=True)] for member in draws
    }
    mean = sum(chance * sum(costs[member]) for member, chance in draws.items()) / pipeline
    values = sorted({c for held in costs.values() for c in held})
    largest, below = 0.0, 0.0
    for value in values:  # the largest is at most this where every stage's cost is
        up_to = 1.0
        for i in range(pipeline):
            up_to *= sum(chance for member, chance in draws.items() if costs[member][i] <= value)
        largest, below = largest + value * (up_to - below), up_to
    return largest / mean


def passed_on(parent: Parent, config: ElasticConfig, run: RunShape, shards: Sharding) -> float:
    """Bytes that a rank gives to the next stage for a micro-batch; as many come back in its backward pass.

    The student's hidden states, and with a teacher those of the teacher beside them (`megatron.streams`).
    """
    streams = 1 + config.distill.taught
    return streams * HALF * parent.hidden * run.seq_length * run.micro_batch / shards.stream
