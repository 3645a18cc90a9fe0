# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in training: what each micro-batch runs, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.nn.gates import Choice
from nemo_elastic.router import Router
from nemo_elastic.search import Space

from .host import Host, Output
from .in_turn import sum_in_turn
from .members import Members
from .sampling import BudgetSampler

__all__ = ["Draw", "FamilyTraining", "Part", "Ran"]


@dataclass(frozen=True)
class Draw:
    """One budget of a micro-batch.

    Attributes:
        budget: its index.
        share: its weight in the micro-batch's loss.
        choice: what runs.
        router_loss: its budget loss; None where the router has no part in it.
    """

    budget: int
    share: float
    choice: Choice
    router_loss: torch.Tensor | None = None


@dataclass(frozen=True)
class Ran:
    """What a micro-batch ran of one budget.

    Attributes:
        micro_batch: its number in the step.
        budget: index.
        tokens_bs: token ids; None where a pipeline stage gets none.
        choice: of the budget.
        loss: sum over its tokens, detached; None on pipeline stages without a loss.
    """

    micro_batch: int
    budget: int
    tokens_bs: torch.Tensor | None
    choice: Choice
    loss: torch.Tensor | None = None


class Part(NamedTuple):
    """A budget's part in a micro-batch's loss, for the log: index, share, and its loss sum without the router's."""

    budget: int
    share: float
    loss_sum: torch.Tensor


class FamilyTraining:
    """Draws budgets, chooses what runs for them, and makes the loss of a micro-batch.

    Args:
        config: the elastic block.
        stage: 1 learns the shapes and then the weights; 2 only the weights, of shapes that stage 1 froze.
        steps: optimizer steps of this stage; tau, scale and freezing are laid out over those of stage 1.

    Attributes:
        ran: what the micro-batches of the present step ran.
        last_router: of the present step: tau, scale, budget and what was routed; empty where the router had no part.

    Raises:
        ElasticError: another stage, or no steps.
    """

    members: Members

    def __init__(self, config: ElasticConfig, stage: int = 1, steps: int = 1) -> None:
        if stage not in (1, 2):
            raise bad("stage", stage, "1 or 2")
        if steps < 1:
            raise bad("stage_steps", steps, "at least 1")
        self.config, self.stage, self.steps = config, stage, steps
        self.sampler = BudgetSampler(config.weights(), config.seed, stage, config.budgets_per_batch)
        self.ran: list[Ran] = []
        self.last_router: dict[str, Any] = {}
        self._drawn = (-1, 0)  # (step, micro-batches drawn in it)

    # ------------------------------------------------------------------ building

    def new_router(self, parent: Parent) -> Router | None:
        """The block's router, untrained; the order in which layers are dropped comes with the ranking.

        Raises:
            ElasticError: a budget that no member of the parent meets.
        """
        self.config.targets(parent)
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
        router = self.config.router
        return 0 if router is None or self.stage == 2 else router.freeze_step(self.steps)

    # ------------------------------------------------------------------ drawing

    @property
    def micro_batch(self) -> int:
        """Number of the micro-batch that was drawn last, in its step."""
        return self._drawn[1] - 1

    def next_draws(self, step: int) -> list[Draw]:
        """What the next micro-batch of `step` trains, from the largest budget to the smallest."""
        micro_batch = self._drawn[1] if self._drawn[0] == step else 0
        self._drawn = (step, micro_batch + 1)
        if micro_batch == 0:
            self.ran.clear()
            self.last_router = {}
        return [self._draw(budget, step, micro_batch) for budget in self.sampler.draws(step, micro_batch)]

    def _draw(self, budget: int, step: int, micro_batch: int) -> Draw:
        share = self.sampler.share(budget)
        if budget == 0:
            return Draw(budget, share, None)
        members = self.members
        if members.router is None or members.is_frozen or not self._is_soft(step, micro_batch):
            if not members.found:
                raise ElasticError("members: none were found; shapes are prepared before the first step")
            return Draw(budget, share, members.get()[budget])
        tau, scale = members.router.schedule(step / self.steps)
        routed = members.router.gates(budget, tau, scale, noise=(step, micro_batch))
        assert self.config.router is not None
        self.last_router = {"tau": tau, "scale": scale, "budget": budget, "routed": routed}
        loss = self.config.router.loss_weight * members.router.budget_loss(routed, budget)
        return Draw(budget, share, routed.gates, loss)

    def _is_soft(self, step: int, micro_batch: int) -> bool:
        """Whether a micro-batch before the freeze runs under the router's masks; others train its present members."""
        assert self.config.router is not None
        share = self.config.router.soft_share
        return share >= 1 or self.sampler.soft(step, micro_batch, share)

    # ------------------------------------------------------------------ a micro-batch

    def loss(
        self, host: Host, draws: Sequence[Draw], tokens: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, list[Part]]:
        """Loss of one micro-batch, summed over its tokens, the router's included: the mean over its budgets.

        The teacher runs once, before any student. All budgets but the last have gone backward when this returns.

        Args:
            host: runs and compares models.
            draws: of `next_draws`.
            tokens, labels: [b, s] token ids and their targets.
            mask: [b, s] weight of every token.

        Returns:
            The loss, and its parts without the router's.
        """
        distill, parts, count = self.config.distill, [], mask.sum()
        teacher = self.teacher_of(host, tokens, draws)

        def objective(draw: Draw) -> torch.Tensor:
            nonlocal teacher
            student = host.student(tokens, draw.choice)
            taught = self.is_taught(draw)
            if distill.teacher == "self" and not taught:
                teacher = host.detached(student)
            loss, _ = host.loss(distill, student, teacher if taught else None, labels, mask)
            parts.append(Part(draw.budget, draw.share, loss.detach()))
            self.remember(draw, tokens, loss.detach())
            return draw.share * (loss if draw.router_loss is None else loss + draw.router_loss.float() * count)

        return sum_in_turn([partial(objective, draw) for draw in draws], lambda: host.factor(count)), parts

    def teacher_of(self, host: Host, tokens: torch.Tensor, draws: Sequence[Draw]) -> Output | None:
        """The teacher's output, where it is not that of a student: the whole model is drawn first, if it is."""
        return host.teacher(tokens) if self.is_taught(draws[0]) else None

    def is_taught(self, draw: Draw) -> bool:
        """Whether a budget is compared with a teacher: the whole model is none's pupil where it teaches itself."""
        return self.config.distill.taught and (self.config.distill.teacher == "frozen" or draw.budget > 0)

    def remember(self, draw: Draw, tokens: torch.Tensor | None, loss: torch.Tensor | None = None) -> None:
        """Keep what the last drawn micro-batch runs, for `Guard`."""
        self.ran.append(Ran(self.micro_batch, draw.budget, tokens, draw.choice, loss))
