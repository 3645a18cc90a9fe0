# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes that `plan` has a rank put into collectives, counted as the stand-in counts them: the larger side of each."""

from __future__ import annotations

from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.plan.activations import HALF, Sharding, context_bytes_per_token
from nemo_elastic.plan.candidate import Candidate
from nemo_elastic.plan.layouts import Layout
from nemo_elastic.plan.machine import SUMS, RunShape
from nemo_elastic.plan.memory import local_parameters, stages
from nemo_elastic.plan.work import expert_bytes, stage_output_bytes, streams


def planned_volumes(made: Any, run: Any, number: int, layout: Layout, job: dict[str, Any]) -> dict[str, float]:
    """Bytes of a step of the whole model, by what divides it.

    A share (n - 1)/n of them leaves a rank, which is what `plan.work` counts seconds of.

    Args:
        made, run: the family of a recipe, and its run.
        number: of the stage.
        layout: of the stage.
        job: see `tests.fake_gpu.job`; it trains a micro-batch for each pipeline stage.
    """
    stage, block = run.curriculum.stage(number), run.block or made.config
    config: ElasticConfig = run.curriculum.precision(block, number)
    sizes = stage.seq_length, stage.global_batch_size, stage.micro_batch_size
    shape = RunShape(*sizes, job["gpus"], job["gpu"], number, gradients=made.precision.gradients, routing=made.routing)
    shards = Sharding(layout.tensor, layout.sequence_parallel, layout.expert or 1, layout.context, made.routing)
    parent = config.parent_shape(made.parent)
    candidate = Candidate(parent, config, shape, shards, layout.pipeline, layout.recompute)
    micro = pipeline = layout.pipeline
    own = stages(parent, pipeline)[job["rank"] * pipeline // job["gpus"]]
    stream = HALF * parent.hidden * candidate.tokens
    parameters = local_parameters(parent, own, shards.tensor, shards.expert)
    kept_off = (shards.expert - 1) / shards.expert
    return {
        "tensor": micro * streams(candidate) * (len(own.kinds) + own.first + own.last) * stream * (shards.tensor > 1),
        "context": micro * candidate.passes * context_bytes_per_token(parent, shards) * candidate.tokens / pipeline
        * (shards.context > 1),
        "experts": micro * expert_bytes(candidate) / kept_off / pipeline if shards.expert > 1 else 0.0,
        "stages": micro * stage_output_bytes(candidate) * ((not own.first) + (not own.last)) * 2 * (pipeline > 1),
        "data": (SUMS[shape.gradients] + HALF) * parameters,
    }  # fmt: skip
