# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How much a rehearsal trains, and how its layouts, curriculum and block follow from a recipe's, on any host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.hosts.common.planned import NODES, PlannedFamily
from nemo_elastic.io.values import integer
from nemo_elastic.plan import Layout, preset
from nemo_elastic.plan.curriculum import PAPER, Curriculum
from nemo_elastic.plan.machine import NODE

from .small import ON_CPU, ON_GPU, narrow

#: of the narrow parent's own training: steps, sequences per step, and rate. A model that has learned nothing has
#: nothing to rank, to teach, or to lose
PARENT_STEPS, PARENT_BATCH, PARENT_LR = 40, 16, 3e-3
#: the first start of stage 1, which ends without a word
CUT_SHORT = "stage1-killed"


@dataclass(frozen=True)
class Machines:
    """Of the real run.

    Attributes:
        nodes, devices: its nodes, and GPUs of each.
        gpu: their kind.
        curriculum: lengths, batches, steps and rates of both stages.
    """

    nodes: int = NODES
    devices: int = NODE
    gpu: str = "h100"
    curriculum: Curriculum = PAPER


@dataclass(frozen=True)
class Short:
    """How much a rehearsal trains.

    Attributes:
        ranks: processes, or GPUs of one node.
        cuda: whether they are GPUs; of this machine where not given.
        steps: of stage 1; stage 2 has as many as in proportion.
        seq_length: of stage 1; as well.
        micro_batches: per rank and step, of stage 1 and 2; the ranking takes one for each rank out of stage 1's step.
        samples, depth_samples: sequences that the ranking looks at.
        candidates: of the search.
        validations, validation_batches: of a stage, beside that before its first step; and micro-batches of one.
    """

    ranks: int = 4
    steps: int = 18
    seq_length: int = 64
    micro_batches: tuple[int, int] = (4, 2)
    samples: int = 16
    depth_samples: int = 4
    candidates: int = 16
    validations: int = 2
    validation_batches: int = 2
    cuda: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self) -> None:
        integer("ranks", self.ranks, 1, "a number of processes, at least 1")
        integer("steps", self.steps, 6, "at least 6: a checkpoint is written after a third of them")


def halved(layouts: Sequence[Layout], ranks: int) -> list[Layout]:
    """Layouts over fewer ranks, each in the same proportion: all tensor-parallel sizes are divided by one number.

    The number is the smallest power of two with which all fit, and some stage has data-parallel replicas where one
    had them.

    Args:
        layouts: of a recipe's stages.
        ranks: how many there are; a power of two.
    """
    factor = 1
    while True:
        small = [_divided(layout, factor, ranks) for layout in layouts]
        sizes = [layout.tensor * layout.pipeline for layout in small]
        replicas = ranks == 1 or min(sizes) < ranks or all(layout.data == 1 for layout in layouts)
        if max(sizes) <= ranks and replicas:
            return small
        factor *= 2


def _divided(layout: Layout, factor: int, ranks: int) -> Layout:
    """A layout with `factor` times fewer ranks for a replica, taken from the pipeline where its ranks are spent."""
    tensor = max(1, layout.tensor // factor)
    pipeline = max(1, layout.pipeline // max(1, factor * tensor // layout.tensor))
    data = max(1, ranks // (tensor * pipeline))
    return replace(
        layout,
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        expert=layout.expert and math.gcd(layout.expert, tensor * data),
        sequence_parallel=layout.sequence_parallel and tensor > 1,
    )


@dataclass(frozen=True)
class Small:
    """A family as it is rehearsed: a narrow parent, on a few ranks.

    Attributes:
        layouts: of both stages, in proportion.
        parent: the narrow parent.
        config: the block for it.
        curriculum: the short one.
    """

    layouts: tuple[Layout, ...]
    parent: Parent
    config: ElasticConfig
    curriculum: Curriculum

    @classmethod
    def of(cls, family: PlannedFamily, short: Short, machines: Machines) -> Small:
        """The rehearsal of a family on these machines.

        Raises:
            ElasticError: as the recipe itself: no layout fits.
        """
        gpus, whole = machines.nodes * machines.devices, machines.curriculum
        planned = [family.layout(number, whole, gpus, machines.gpu, machines.devices) for number in (1, 2)]
        layouts = tuple(halved(planned, short.ranks))
        parent, block = narrow(preset(family.shape), family.config, ON_GPU if short.cuda else ON_CPU)
        return cls(layouts, parent, _block(block, short), _curriculum(whole, layouts, short))


def _block(block: ElasticConfig, short: Short) -> ElasticConfig:
    importance = replace(block.importance, samples=short.samples, depth_samples=short.depth_samples)
    search = block.search and replace(
        block.search, candidates=short.candidates, tokens=short.depth_samples * short.seq_length
    )
    return replace(block, importance=importance, search=search)


def _curriculum(whole: Curriculum, layouts: Sequence[Layout], short: Short) -> Curriculum:
    """Both stages in the proportions of a recipe's, on a few ranks."""
    steps, length = short.steps / whole.stage1.max_steps, whole.stage1.seq_length
    stages = [
        replace(
            stage,
            seq_length=stage.seq_length * short.seq_length // length,
            micro_batch_size=1,
            global_batch_size=layout.data * count,
            max_steps=max(3, round(stage.max_steps * steps)),
        )
        for stage, layout, count in zip((whole.stage1, whole.stage2), layouts, short.micro_batches, strict=True)
    ]
    return replace(whole, stage1=stages[0], stage2=stages[1],
                   warmup_steps=max(1, round(whole.warmup_steps * steps)))  # fmt: skip
