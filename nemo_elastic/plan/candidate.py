# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One parallel layout of a run, before its memory and time are computed."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent

from .activations import Sharding
from .machine import RunShape

__all__ = ["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A run and its parallel layout.

    Attributes:
        parent: shape of the whole model, with the block's stripes.
        config: the `elastic:` block.
        run: lengths, batches and machine.
        shards: tensor, sequence, expert and context parallelism.
        pipeline: pipeline-parallel size.
        recompute: every layer is checkpointed.
    """

    parent: Parent
    config: ElasticConfig
    run: RunShape
    shards: Sharding
    pipeline: int = 1
    recompute: bool = False

    @property
    def ranks_per_layer(self) -> int:
        """Ranks that communicate in every layer: tensor x context parallel."""
        return self.shards.tensor * self.shards.context

    @property
    def data(self) -> int:
        """Data-parallel size."""
        return self.run.gpus // (self.ranks_per_layer * self.pipeline)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one rank in a step."""
        return self.run.global_batch // (self.run.micro_batch * self.data)

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on a rank between layers, before sequence parallelism divides them."""
        return self.run.seq_length * self.run.micro_batch // self.shards.context

    @property
    def gated(self) -> float:
        """Share of the run's micro-batches that train under the router's masks, at full size."""
        if self.config.router is None or self.run.stage != 1:
            return 0.0
        return self.config.router.freeze_at

    @property
    def passes(self) -> int:
        """Passes of a micro-batch through the layers: forward, backward, recomputation and the teacher's forward."""
        return 2 + self.recompute + self.config.distill.has_teacher
