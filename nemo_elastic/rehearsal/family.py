# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family's recipe whose jobs are small: the same code builds them, from a narrow parent and a short curriculum.

Nothing else is said here: what the jobs of a recipe and those of its rehearsal differ in is found by comparing them
(`changes`), and must be declared there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import nemo_run as run
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.nemo.curriculum.jobs import PAPER, Curriculum, Stage
from nemo_elastic.hosts.nemo.curriculum.large import NODES, Blend, FamilyRecipe
from nemo_elastic.hosts.nemo.platform.strategy import CPUMegatronStrategy
from nemo_elastic.io.values import integer
from nemo_elastic.plan import Layout, preset
from nemo_elastic.plan.machine import NODE

from .small import ON_CPU, ON_GPU, narrow

#: settings of a model that name kernels of a GPU, as a CPU has them
WITHOUT_KERNELS = {
    "use_cpu_initialization": True,
    "apply_rope_fusion": False,
    "bias_dropout_fusion": False,
    "cross_entropy_loss_fusion": False,
    "gradient_accumulation_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
}


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
    return replace(
        layout,
        tensor=tensor,
        pipeline=pipeline,
        data=max(1, ranks // (tensor * pipeline)),
        sequence_parallel=layout.sequence_parallel and tensor > 1,
    )


@dataclass(frozen=True)
class SmallFamily(FamilyRecipe):
    """A recipe's family with a narrow parent, on a few ranks.

    Attributes:
        layouts: of both stages.
        short: how much is trained.
    """

    layouts: tuple[Layout, ...] = ()
    short: Short = Short()

    @classmethod
    def of(
        cls,
        family: FamilyRecipe,
        short: Short,
        curriculum: Curriculum = PAPER,
        nodes: int = NODES,
        devices: int = NODE,
        gpu: str = "h100",
    ) -> SmallFamily:
        """The rehearsal of a family on so many nodes with so many GPUs each.

        Raises:
            ElasticError: as the recipe itself: no layout fits.
        """
        layouts = halved(
            [family.layout(number, curriculum, nodes * devices, gpu, devices) for number in (1, 2)], short.ranks
        )
        return cls(family.name, family.stock, family.shape, family.block, tuple(layouts), short)

    @cached_property
    def _narrow(self) -> tuple[Parent, ElasticConfig]:
        parent = preset(self.shape)
        return narrow(parent, ElasticConfig.load(self.block), ON_GPU if self.short.cuda else ON_CPU)

    @property
    def parent(self) -> Parent:
        """The narrow parent."""
        return self._narrow[0]

    @property
    def config(self) -> ElasticConfig:
        """The block for it."""
        block, short = self._narrow[1], self.short
        importance = replace(block.importance, samples=short.samples, depth_samples=short.depth_samples)
        search = block.search and replace(
            block.search, candidates=short.candidates, tokens=short.depth_samples * short.seq_length
        )
        return replace(block, importance=importance, search=search)

    def layout(self, number: int, curriculum: Curriculum, gpus: int, gpu: str, node: int = NODE) -> Layout:
        """What was planned for all GPUs, in small."""
        return self.layouts[number - 1]

    def curriculum(self, whole: Curriculum) -> Curriculum:
        """Both stages in the proportions of a recipe's, on a few ranks."""
        short, steps, length = self.short, self.short.steps / whole.stage1.max_steps, whole.stage1.seq_length
        stages = [
            replace(
                stage,
                seq_length=stage.seq_length * short.seq_length // length,
                micro_batch_size=1,
                global_batch_size=layout.data * count,
                max_steps=max(3, round(stage.max_steps * steps)),
            )
            for stage, layout, count in zip(
                (whole.stage1, whole.stage2), self.layouts, short.micro_batches, strict=True
            )
        ]
        return replace(whole, stage1=stages[0], stage2=stages[1],
                       warmup_steps=max(1, round(whole.warmup_steps * steps)))  # fmt: skip

    def stock_recipe(
        self, job: str, data: Blend, dir: str, ranks: int, stage: Stage, curriculum: Curriculum, tokenizer: str
    ) -> run.Partial:
        """NeMo's recipe of the narrow parent, not elastic, on one node."""
        return self._stock(job, data, dir, 1, ranks, stage, curriculum, tokenizer)

    def _stock(self, *args: Any, **kwargs: Any) -> run.Partial:
        recipe = super()._stock(*args, **kwargs)
        config, trainer = recipe.model.config, recipe.trainer
        for name, value in stock_sizes(self.parent, self.parent.full).items():
            if getattr(config, name, None) != value:
                setattr(config, name, value)
        trainer.val_check_interval = max(1, trainer.max_steps // self.short.validations)
        trainer.limit_val_batches = min(trainer.limit_val_batches, self.short.validation_batches)
        recipe.log.ckpt.every_n_train_steps = max(1, self.short.steps // 3)
        # a rank has its share of two cores, and these sequences are short
        recipe.data.num_workers, recipe.data.persistent_workers = 0, False
        if not self.short.cuda:
            without_kernels(recipe)
        return recipe


def without_kernels(recipe: run.Partial) -> None:
    """Let a recipe run on a CPU."""
    recipe.trainer.accelerator = "cpu"
    recipe.trainer.strategy = run.Config(CPUMegatronStrategy, **recipe.trainer.strategy.__arguments__)
    for name, value in WITHOUT_KERNELS.items():
        setattr(recipe.model.config, name, value)
