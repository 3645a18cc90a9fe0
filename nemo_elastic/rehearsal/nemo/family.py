# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family's recipe whose jobs are small: the same code builds them, from a narrow parent and a short curriculum.

Nothing else is said here: what the jobs of a recipe and those of its rehearsal differ in is found by comparing them
(`rehearsal.changes`), and must be declared in `declared`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nemo_run as run

from nemo_elastic.core.family import Parent
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.nemo.curriculum.large import Blend, FamilyRecipe
from nemo_elastic.hosts.nemo.platform.strategy import CPUMegatronStrategy
from nemo_elastic.plan import Layout
from nemo_elastic.plan.curriculum import Curriculum, Stage
from nemo_elastic.plan.machine import NODE
from nemo_elastic.rehearsal.short import Machines, Short, Small

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
class SmallFamily(FamilyRecipe):
    """A recipe's family whose jobs are small.

    Attributes:
        small: what is rehearsed of it.
        short: how much is trained.
    """

    small: Small
    short: Short

    @classmethod
    def of(cls, family: FamilyRecipe, short: Short, machines: Machines | None = None) -> SmallFamily:
        """The rehearsal of a family on these machines.

        Raises:
            ElasticError: as the recipe itself: no layout fits.
        """
        small = Small.of(family, short, machines or Machines())
        return cls(family.name, family.stock, family.shape, small.config, small, short)

    def layout(self, number: int, curriculum: Curriculum, gpus: int, gpu: str, node: int = NODE) -> Layout:
        """What was planned for all GPUs, in small."""
        return self.small.layouts[number - 1]

    def stock_recipe(
        self, job: str, data: Blend, dir: str, ranks: int, stage: Stage, curriculum: Curriculum, tokenizer: str
    ) -> run.Partial:
        """NeMo's recipe of the narrow parent, not elastic, on one node."""
        return self._stock(job, data, dir, 1, ranks, stage, curriculum, tokenizer)

    def _stock(self, *args: Any, **kwargs: Any) -> run.Partial:
        recipe = super()._stock(*args, **kwargs)
        trainer = recipe.trainer
        set_sizes(recipe.model.config, self.small.parent)
        trainer.val_check_interval = max(1, trainer.max_steps // self.short.validations)
        trainer.limit_val_batches = min(trainer.limit_val_batches, self.short.validation_batches)
        recipe.log.ckpt.every_n_train_steps = max(1, self.short.steps // 3)
        # a rank has its share of two cores, and these sequences are short
        recipe.data.num_workers, recipe.data.persistent_workers = 0, False
        if not self.short.cuda:
            without_kernels(recipe)
        return recipe


def set_sizes(config: run.Config, parent: Parent) -> None:
    """Give a model's config a parent's widths and layers."""
    for name, value in stock_sizes(parent, parent.full).items():
        if getattr(config, name, None) != value:
            setattr(config, name, value)


def without_kernels(recipe: run.Partial) -> None:
    """Let a recipe run on a CPU."""
    recipe.trainer.accelerator = "cpu"
    recipe.trainer.strategy = run.Config(CPUMegatronStrategy, **recipe.trainer.strategy.__arguments__)
    for name, value in WITHOUT_KERNELS.items():
        setattr(recipe.model.config, name, value)
