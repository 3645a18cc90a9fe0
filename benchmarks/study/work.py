# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""FLOPs that a run spent, replayed from what decides them: samples, members, search.

A forward is `cost.flops_per_token`, a backward twice that; a teacher's forward is the whole parent's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.family import Parent, Subnet


def forward(parent: Parent, member: Subnet, length: int) -> float:
    """FLOPs of one token through a member."""
    return float(flops_per_token(parent, member, length))


def elastic_steps(
    parent: Parent, config: ElasticConfig, members: Sequence[Subnet], steps: int, batch: Any, stage: int = 1
) -> float:
    """Students and teacher of an elastic run with one micro-batch a step.

    Args:
        parent: its shape.
        config: its block, of any way to shapes but the router's, whose masks run the whole model.
        members: that it ended with, by budget; candidates that it trained before have about their cost.
        steps: of this run.
        batch: its `train.Batch`.
        stage: 1 or 2.
    """
    from nemo_elastic.train.samples import BudgetSampler

    sampler = BudgetSampler(config.weights(), config.seed, stage)
    whole = forward(parent, parent.full, batch.length)
    sliced = [forward(parent, m, batch.length) for m in members]
    return sum(3 * sliced[sampler.samples(step, 0)[0]] + whole for step in range(steps)) * batch.tokens


def search(parent: Parent, config: ElasticConfig, trace: Sequence[Mapping[str, Any]], length: int) -> float:
    """Forwards of a search; a candidate's FLOPs are taken in proportion to its parameters."""
    if not config.searches:
        return 0.0
    whole = forward(parent, parent.full, length)
    count = parameters(parent, parent.full)
    return config.search.tokens * whole * (1 + sum(t["cost"] / count for t in trace))


def ranking(parent: Parent, config: ElasticConfig, length: int) -> float:
    """Forwards of a ranking: all samples once, and the depth's rounds, where a candidate runs the layers behind its
    own (`ranking.depth`; candidates that are given up early are counted whole).
    """
    whole, n = forward(parent, parent.full, length) * length, parent.num_layers
    layers = sum(kept * (kept + 1) / 2 for kept in range(2, n + 1)) if config.importance.depth == "mse" else 0.0
    return whole * (config.importance.samples + config.importance.depth_samples * layers / n)
