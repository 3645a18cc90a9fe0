# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a large recipe is on any host, before anything is built: a parent, a block, and by them layouts and hours."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.moe import EXPERTS
from nemo_elastic.plan import NODE, Layout, RunShape, best, duration, preset
from nemo_elastic.plan.curriculum import Curriculum
from nemo_elastic.plan.memory import local_parameters, stages

__all__ = ["NODES", "SAVE_EVERY", "SPLIT", "VALIDATIONS", "Estimate", "PlannedFamily", "Precision", "ranking_experts"]

#: nodes of 8 GPUs that the defaults are for
NODES = 16
#: shares of the data for training, validation and test, where it is not given by split
SPLIT = "998,1,1"
#: steps between checkpoints, and validations of a stage
SAVE_EVERY, VALIDATIONS = 100, 10
#: of bf16, in which the ranking holds the parent
BYTES_OF_WEIGHT = 2


def ranking_experts(parent: Parent, gpus: int) -> int:
    """Ranks of the ranking's job that share the experts of a layer: as many of its GPUs as divide them.

    Experts are most of what such a parent weighs. Shared, they leave room for what layers take beside the weights; all
    else each GPU holds whole, so that each looks at samples of its own.
    """
    return math.gcd(gpus, parent.size(EXPERTS)) if parent.has(EXPERTS) else 1


@dataclass(frozen=True)
class Estimate:
    """What a job takes, by `nemo_elastic.plan`.

    Attributes:
        memory: bytes of the fullest GPU.
        hours: of all steps; None where nothing estimates them.
        least: the memory is that of the weights alone.
    """

    memory: float
    hours: float | None = None
    least: bool = False


@dataclass(frozen=True)
class Precision:
    """What a training computes in, as its host sets it up.

    Attributes:
        weights: dtype of the model's parameters.
        gradients: what those of micro-batches and of ranks are summed in.
    """

    weights: str
    gradients: str


@dataclass(frozen=True)
class PlannedFamily(ABC):
    """A family that is trained from a host's own recipe of its parent.

    Attributes:
        host: whose, as `nemo-elastic train --host` says it.
        name: of the recipe and its experiment.
        stock: the host's recipe of the parent.
        shape: the parent's name in `nemo_elastic.plan`.
        block: YAML file with the elastic block, or the block.
    """

    host: ClassVar[str]

    name: str
    stock: Callable[..., Any]
    shape: str
    block: Path | ElasticConfig | Mapping[str, Any]

    @property
    def config(self) -> ElasticConfig:
        """The elastic block."""
        return ElasticConfig.of(self.block)

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """Of both stages, read from what the host's jobs are built of."""

    def layout(self, number: int, curriculum: Curriculum, gpus: int, gpu: str, node: int = NODE) -> Layout:
        """The layout of a stage that `nemo_elastic.plan.best` takes; `node` is the GPUs of a node.

        Raises:
            ElasticError: none fits, or the batch does not divide.
        """
        stage = curriculum.stage(number)
        sizes = stage.seq_length, stage.global_batch_size, stage.micro_batch_size
        run = RunShape(*sizes, gpus, gpu, number, node=node, gradients=self.precision.gradients)
        return best(preset(self.shape), self.config, run)

    def estimates(
        self, curriculum: Curriculum, num_nodes: int, num_gpus_per_node: int, gpu: str
    ) -> dict[str, Estimate]:
        """Memory and hours of the jobs by the planner. Of the ranking only the parent's weights are known."""
        shape = self.config.parent_shape(preset(self.shape))
        (whole,) = stages(shape, 1)
        held = local_parameters(shape, whole, 1, ranking_experts(shape, num_gpus_per_node))
        found = {"rank": Estimate(BYTES_OF_WEIGHT * held, least=True)}
        for number in (1, 2):
            layout = self.layout(number, curriculum, num_nodes * num_gpus_per_node, gpu, num_gpus_per_node)
            hours = duration(layout, curriculum.stage(number).max_steps).hours
            found[f"stage{number}"] = Estimate(layout.memory.total, hours)
        return found
