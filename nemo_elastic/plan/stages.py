# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lengths, batches, steps and rates of the stages; the paper's two by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.errors import bad
from nemo_elastic.io.fields import Between, check, read

__all__ = ["PAPER", "STAGES", "Curriculum", "Stage"]

#: fields of a curriculum
STAGES = ("stage1", "stage2", "stage3")


@dataclass(frozen=True)
class Stage:
    """Lengths and sizes of one stage.

    Attributes:
        seq_length: tokens per sequence.
        global_batch_size, micro_batch_size: sequences per optimizer step, and per forward of one rank.
        max_steps: optimizer steps.
        sampling: weights of the budgets, the parent's first; None takes the elastic block's.
    """

    seq_length: Annotated[int, Between(1)]
    global_batch_size: Annotated[int, Between(1)]
    max_steps: Annotated[int, Between(1)]
    sampling: tuple[float, ...] | None = None
    micro_batch_size: Annotated[int, Between(1)] = 1

    def __post_init__(self) -> None:
        check(self, "stage")

    @property
    def samples(self) -> int:
        """Sequences of the whole stage."""
        return self.global_batch_size * self.max_steps

    @property
    def tokens(self) -> int:
        """Tokens of the whole stage."""
        return self.seq_length * self.samples

    def block(self, config: ElasticConfig) -> ElasticConfig:
        """The elastic block with this stage's sampling.

        Raises:
            ElasticError: not one weight for each budget.
        """
        if self.sampling is None:
            return config
        names = [budget.name for budget in config.budgets]
        if len(names) != len(self.sampling):
            raise bad("stage.sampling", self.sampling, f"one weight for each of {', '.join(names)}")
        return replace(config, sampling=dict(zip(names, self.sampling, strict=True)))


@dataclass(frozen=True)
class Curriculum:
    """The stages, and the learning rate over them.

    The defaults are the paper's (arXiv 2511.16664): 65B tokens at 8192, then 45B at 49152, where the full model is
    sampled more often. How shapes are found is in the elastic block.

    Attributes:
        stage1, stage2: see `Stage`.
        stage3: in low precision, if any (`distill.quantize` of the elastic block); without it stage 2 is the last one.
        lr: peak rate of the weights.
        warmup_steps: steps of warm-up, once; then a cosine over all stages.
        min_ratio: rate at the end, as a share of the peak. The paper does not give it; NeMo's recipes have 0.1.
    """

    stage1: Stage = Stage(8192, 1536, 5170)
    stage2: Stage = Stage(49152, 512, 1790, sampling=(0.5, 0.3, 0.2))
    stage3: Stage | None = None
    lr: float = 9e-5
    warmup_steps: int = 60
    min_ratio: float = 0.1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curriculum:
        """One from its fields, as `dataclasses.asdict` gives them, or JSON after it."""
        return read(cls, values, "curriculum")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In their order."""
        return tuple(stage for stage in (self.stage1, self.stage2, self.stage3) if stage is not None)

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return self.steps_before(len(self.stages) + 1)

    def steps_before(self, number: int) -> int:
        """Optimizer steps of the stages before one."""
        return sum(stage.max_steps for stage in self.stages[: number - 1])

    def stage(self, number: int) -> Stage:
        """A stage by its number, from 1."""
        return self.stages[number - 1]

    def block(self, config: ElasticConfig, number: int) -> ElasticConfig:
        """The elastic block of a stage: with its sampling, in its precision.

        Raises:
            ElasticError: not one weight for each budget; or see `precision`.
        """
        return self.stage(number).block(self.precision(config, number))

    def precision(self, config: ElasticConfig, number: int) -> ElasticConfig:
        """The elastic block with the precision of a stage: the last is in the low one that the block may ask for.

        Raises:
            ElasticError: a stage 3 of a block that names none.
        """
        distill, last = config.distill, len(self.stages)
        if self.stage3 is not None and distill.quantize is None:
            raise bad("elastic.distill.quantize", None, f"one of {', '.join(SCHEMES)}: stage 3 trains in it")
        return config if number >= last else replace(config, distill=replace(distill, quantize=None))

    def in_low_precision(self, steps: int | None = None) -> Curriculum:
        """With a stage 3 of stage 2's lengths.

        Args:
            steps: of it; a tenth of stage 2's where not given.
        """
        return replace(self, stage3=replace(self.stage2, max_steps=steps or max(1, self.stage2.max_steps // 10)))


PAPER = Curriculum()
