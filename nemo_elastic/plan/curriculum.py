# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lengths, batches, steps and rates of the two stages; the paper's by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, keep_plain

__all__ = ["PAPER", "Curriculum", "Stage"]


@dataclass(frozen=True)
class Stage:
    """Lengths and sizes of one stage.

    Attributes:
        seq_length: tokens per sequence.
        global_batch_size, micro_batch_size: sequences per optimizer step, and per forward of one rank.
        max_steps: optimizer steps.
        sampling: weights of the budgets, the parent's first; None takes the elastic block's.
    """

    seq_length: int
    global_batch_size: int
    max_steps: int
    sampling: tuple[float, ...] | None = None
    micro_batch_size: int = 1

    def __post_init__(self) -> None:
        keep_plain(self)
        for name in ("seq_length", "global_batch_size", "max_steps", "micro_batch_size"):
            integer(f"stage.{name}", getattr(self, name), 1, "at least 1")

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
    """Both stages, and the learning rate over them.

    The defaults are the paper's (arXiv 2511.16664): 65B tokens at 8192, then 45B at 49152, where the full model is
    drawn more often. The router's own hyper-parameters are in the elastic block.

    Attributes:
        stage1, stage2: see `Stage`.
        lr: peak rate of the weights.
        warmup_steps: steps of warm-up, once; then a cosine over both stages.
        min_ratio: rate at the end, as a share of the peak. The paper does not give it; NeMo's own recipes take 0.1.
    """

    stage1: Stage = Stage(8192, 1536, 5170)
    stage2: Stage = Stage(49152, 512, 1790, sampling=(0.5, 0.3, 0.2))
    lr: float = 9e-5
    warmup_steps: int = 60
    min_ratio: float = 0.1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curriculum:
        """One from its fields, as `dataclasses.asdict` gives them, or JSON after it."""
        stages = {}
        for name in ("stage1", "stage2"):
            sampling = values[name].get("sampling")
            stages[name] = Stage(**{**values[name], "sampling": None if sampling is None else tuple(sampling)})
        return cls(**{**values, **stages})

    @property
    def steps(self) -> int:
        """Optimizer steps of both stages."""
        return self.stage1.max_steps + self.stage2.max_steps

    def stage(self, number: int) -> Stage:
        """Stage 1 or 2."""
        return self.stage1 if number == 1 else self.stage2


PAPER = Curriculum()
