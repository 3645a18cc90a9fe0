# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in training: what each micro-batch runs, its loss, and the learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.nn.documents import Documents
from nemo_elastic.router import Router
from nemo_elastic.search import Space

from .members import Members
from .samples import BudgetSampler, Sample
from .seam import Host, Output


@dataclass(frozen=True)
class MicroBatchRecord:
    """What a micro-batch ran of one budget.

    Attributes:
        loss: sum over its tokens without the router's, detached; None on pipeline stages without a loss.
        count: how many tokens count in it; None where there is no loss.
    """

    micro_batch: int
    budget: int
    loss: torch.Tensor | None = None
    count: torch.Tensor | None = None


class FamilyTraining:
    """Samples budgets, chooses what runs for one, and makes the loss of a micro-batch.

    Args:
        stage: 1 finds the shapes and trains the weights; 2 and 3 only the weights, of shapes that stage 1 froze.
        steps: optimizer steps of this stage; the router's schedule is laid out over those of stage 1.

    Attributes:
        ran: what the micro-batches of the present step ran.
        last_router: of the present step: tau, scale, budget and what was routed; empty where the router had no part.
    """

    members: Members

    def __init__(self, config: ElasticConfig, stage: int = 1, steps: int = 1) -> None:
        config.check_stage(stage)
        if steps < 1:
            raise bad("stage_steps", steps, "at least 1")
        self.config, self.stage, self.steps = config, stage, steps
        self.sampler = BudgetSampler(config.weights(), config.seed, stage)
        self.ran: list[MicroBatchRecord] = []
        self.last_router: dict[str, Any] = {}
        self._sampled = (-1, 0)  # (step, micro-batches sampled in it)

    # ------------------------------------------------------------------ building

    def new_router(self, parent: Parent) -> Router | None:
        """The block's router, untrained; the order in which layers are dropped comes with the ranking."""
        self.config.targets(parent)
        self.config.check_blocks(parent)
        if self.config.router is None:
            return None
        return Router(self.space(parent), self.config.budgets, self.config.router, self.config.seed)

    def space(self, parent: Parent, drop_order: list[int] | None = None) -> Space:
        """Members that the axes allow; the order in which layers go comes with the ranking and stays in the router."""
        order = list(range(parent.num_layers)) if drop_order is None else drop_order
        return Space(parent, self.config.resolve_axes(parent), order)

    @property
    def parent(self) -> Parent:
        return self.members.parent

    @property
    def freeze_step(self) -> int:
        """First step of stage 1 that runs on slices of frozen shapes."""
        return 0 if self.stage > 1 else self.config.freeze_step(self.steps)

    # ------------------------------------------------------------------ sampling

    @property
    def micro_batch(self) -> int:
        """Number of the micro-batch that was sampled last, in its step."""
        return self._sampled[1] - 1

    def next_sample(self, host: Host) -> Sample:
        """What the next micro-batch of the host's step trains."""
        step = host.step
        micro_batch = self._sampled[1] if self._sampled[0] == step else 0
        self._sampled = (step, micro_batch + 1)
        if micro_batch == 0:
            self.ran.clear()
            self.last_router = {}
        budget = self.sampler.budget(step, micro_batch)
        if budget == 0:
            return Sample(budget, None)
        members = self.members
        if not members.known:
            raise ElasticError("members: none were found; shapes are prepared before the first step")
        if members.router is not None and not members.is_frozen:
            return self._routed(members.router, budget, step, micro_batch)
        return Sample(budget, members.get()[budget])

    def _routed(self, router: Router, budget: int, step: int, micro_batch: int) -> Sample:
        """The whole model under the router's masks."""
        tau, scale = router.schedule(step / self.steps)
        routed = router.gates(budget, tau, scale, noise=(step, micro_batch))
        self.last_router = {"tau": tau, "scale": scale, "budget": budget, "routed": routed}
        return Sample(budget, routed.gates, router.config.loss_weight * router.budget_loss(routed, budget))

    # ------------------------------------------------------------------ a micro-batch

    def loss(
        self,
        host: Host,
        sample: Sample,
        tokens: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor,
        documents: Documents | None = None,
    ) -> tuple[torch.Tensor, MicroBatchRecord]:
        """Loss of one micro-batch, summed over its tokens, the router's included.

        Args:
            tokens, labels: [b, s] token ids and their targets.
            mask: [b, s] weight of every token.
            documents: in the rows of tokens, where they are kept apart: of student and teacher.

        Returns:
            The loss, and what ran.
        """
        count, teacher = mask.sum(), self.teacher_of(host, tokens, sample, documents)
        student = host.student(tokens, sample.choice, documents)
        loss, _ = host.loss(self.config.distill, student, teacher, labels, mask)
        ran = self.record(sample, loss.detach(), count)
        return loss if sample.router_loss is None else loss + sample.router_loss.float() * count, ran

    def teacher_of(
        self, host: Host, tokens: torch.Tensor, sample: Sample, documents: Documents | None = None
    ) -> Output | None:
        """The teacher's output, where the budget is compared with one: the whole model does not teach itself."""
        distill = self.config.distill
        has_teacher = distill.teacher == "frozen" or (distill.has_teacher and sample.budget > 0)
        return host.teacher(tokens, documents) if has_teacher else None

    def record(
        self, sample: Sample, loss: torch.Tensor | None = None, count: torch.Tensor | None = None
    ) -> MicroBatchRecord:
        """Keep what the last sampled micro-batch ran, for `Guard` and the log."""
        ran = MicroBatchRecord(self.micro_batch, sample.budget, loss, count)
        self.ran.append(ran)
        return ran


@dataclass(frozen=True)
class Rates:
    """Linear warm-up and cosine decay over all stages; the router warms up, holds, and stops when frozen.

    Attributes:
        total_steps: of all stages together.
        warmup_steps: linear warm-up at the very start.
        min_ratio: rate at the end, as a share of the peak.
        freeze_step: step at which the router is frozen (counted over the curriculum).
        router_warmup: warm-up of the router in steps.
        start_step: steps done by earlier stages.
    """

    total_steps: int
    warmup_steps: int = 60
    min_ratio: float = 0.1
    freeze_step: int = 0
    router_warmup: int = 20
    start_step: int = 0

    def after(self, done: int, steps: int) -> Rates:
        """The rates of a stage of `steps` steps after `done` others. Without a total the decay ends with this stage.

        Raises:
            ElasticError: the total is below the steps of all of them.
        """
        if steps < self.total_steps < done + steps:
            raise bad("total_steps", self.total_steps, f"at least {done} of the earlier stages + {steps} of this one")
        return replace(self, start_step=done, total_steps=max(self.total_steps, done + steps))

    def model(self, step: int, peak: float = 1.0, lowest: float | None = None) -> float:
        """The model's rate at a step of this stage, between a peak and the lowest, `min_ratio` of it if not given."""
        step += self.start_step
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        lowest = peak * self.min_ratio if lowest is None else lowest
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def router(self, step: int) -> float:
        """Share of the router's rate at a step of this stage."""
        step += self.start_step
        return 0.0 if step >= self.freeze_step else min(1.0, (step + 1) / max(1, self.router_warmup))
