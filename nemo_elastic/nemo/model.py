# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""ElasticMambaModel: NeMo's MambaModel that trains a nested family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from nemo.collections import llm

from nemo_elastic.config import FROZEN, ElasticConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.kernels import check_widths
from nemo_elastic.megatron.mixer import have_kernels
from nemo_elastic.megatron.run import ElasticState
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.megatron.vocabulary import hidden_states, make_elastic
from nemo_elastic.nn.gates import Choice
from nemo_elastic.router import Router
from nemo_elastic.shapes import Space

from .checkpoint import load_model_weights
from .in_turn import sum_in_turn
from .loss import ElasticLossReduction, Output, distill_loss
from .members import Members
from .nonfinite import Ran
from .sampling import BudgetSampler
from .streams import join, part
from .teacher import build_teacher
from .validation import HeldOut


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


@dataclass
class Hidden:
    """Objects of a model that Lightning and checkpoints must not see: `nn.Module` would register them."""

    state: ElasticState
    members: Members
    core: Any
    teacher: Any = None


class ElasticMambaModel(llm.MambaModel):
    """A Nemotron-H whose micro-batches each train one budget of a nested family, or several.

    The megatron-core module keeps its exact type, its parameter names, and gets one submodule more, `elastic` (router
    and found members). Any stock SSMConfig serves: nothing is subclassed.

    Args:
        config: NeMo's SSMConfig of the parent.
        elastic: the elastic block as JSON values (`ElasticConfig.to_dict`).
        teacher: NeMo checkpoint of the parent: the frozen teacher, and what stage 1 starts from.
        stage: 1 learns the shapes and then the weights; 2 only the weights, of shapes that stage 1 froze.
        stage_steps: optimizer steps of this stage; tau, scale and freezing are laid out over those of stage 1.
        optim: `ElasticOptimizer`; tokenizer, model_transform: as in NeMo.
    """

    hidden: Hidden

    def __init__(
        self,
        config: Any = None,
        elastic: dict | None = None,
        teacher: str | None = None,
        stage: int = 1,
        stage_steps: int = 1,
        optim: Any = None,
        tokenizer: Any = None,
        model_transform: Callable | None = None,
    ) -> None:
        super().__init__(config, optim=optim, tokenizer=tokenizer, model_transform=model_transform)
        # NeMo captures constructor arguments for checkpoints; the base's constructor has just captured only its own
        captured = {"elastic": elastic, "teacher": teacher, "stage": stage, "stage_steps": stage_steps}
        for name, value in captured.items():
            setattr(self.__io__, name, value)
        self.elastic_config = ElasticConfig.from_dict(elastic)
        if stage not in (1, 2):
            raise bad("stage", stage, "1 or 2")
        if stage_steps < 1:
            raise bad("stage_steps", stage_steps, "at least 1")
        if self.elastic_config.distill.mode in FROZEN and teacher is None:
            raise bad(
                "teacher", teacher, f"distill.mode {self.elastic_config.distill.mode} needs the parent's checkpoint"
            )
        self.teacher_path, self.stage, self.stage_steps = teacher, stage, stage_steps
        self.sampler = BudgetSampler(
            self.elastic_config.weights(), self.elastic_config.seed, stage, self.elastic_config.budgets_per_batch
        )
        self._reduction = ElasticLossReduction(len(self.elastic_config.budgets))
        self.heldout = HeldOut(self.elastic_config.distill)
        self._random_state: torch.Tensor | None = None  # from before a validation
        self._drawn = (-1, 0)  # (step, micro-batches drawn in it)
        #: what the pipeline stage before this one gave of student and teacher
        self._received: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        self.last_router: dict[str, Any] = {}  # of the present step
        self.ran: list[Ran] = []  # in the present step
        self.facts: tuple[int, dict[str, float]] = (-1, {})  # (steps done, what is logged of the last)

    # ------------------------------------------------------------------ building

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build the elastic module, the router, and the teacher; load the parent's weights into both."""
        if hasattr(self, "module"):
            return
        if parallel_state.get_context_parallel_world_size() > 1:
            raise bad("context_parallel_size", parallel_state.get_context_parallel_world_size(), "1 in this version")
        distill, several = self.elastic_config.distill, self.elastic_config.budgets_per_batch
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        if stages > 1 and several > 1:
            raise bad("pipeline_model_parallel_size", stages, f"1 while elastic.budgets_per_batch is {several}")
        self.config.mamba_stack_spec = elastic_stack_spec
        teacher = None
        if distill.mode in FROZEN:
            teacher = build_teacher(self.config, self.tokenizer, self.teacher_path, distill.teacher_precision)
        super().configure_model(vp_stage)
        core = self.module
        vocab = core.vocab_size
        parent = self.elastic_config.parent_shape(parent_of(self.config, vocab))
        world = parallel_state.get_tensor_model_parallel_world_size()
        check_parallel(parent, world)
        axes = self.elastic_config.resolve_axes(parent)
        if have_kernels():
            check_widths(parent, axes, world)
        self.elastic_config.targets(parent)
        router = None
        if self.elastic_config.router is not None:
            # the order in which layers are dropped comes with the ranking, before the first step
            router = Router(
                self.space(parent), self.elastic_config.budgets, self.elastic_config.router, self.elastic_config.seed
            )
        members = Members(parent, len(self.elastic_config.budgets), router).to(next(core.parameters()).device)
        core.add_module("elastic", members)
        if self.stage == 1 and self.teacher_path is not None:
            load_model_weights(core, self.teacher_path)
        state = ElasticState(parent)
        make_elastic(core, state)
        # nn.Module.__setattr__ is not asked: nothing in it must be registered
        object.__setattr__(self, "hidden", Hidden(state, members, core, teacher))

    def space(self, parent: Parent, drop_order: list[int] | None = None) -> Space:
        """Members that the axes allow; the order in which layers go comes with the ranking and stays in the router."""
        order = list(range(parent.num_layers)) if drop_order is None else drop_order
        return Space(parent, self.elastic_config.resolve_axes(parent), order)

    @property
    def parent(self) -> Parent:
        return self.hidden.state.parent

    @property
    def members(self) -> Members:
        return self.hidden.members

    @property
    def freeze_step(self) -> int:
        """First step of stage 1 that runs on slices of frozen shapes."""
        router = self.elastic_config.router
        return 0 if router is None or self.stage == 2 else router.freeze_step(self.stage_steps)

    # ------------------------------------------------------------------ stepping

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
                raise ElasticError("members: none were found; ElasticCallback must run before the first step")
            return Draw(budget, share, members.get()[budget])
        tau, scale = members.router.schedule(step / self.stage_steps)
        routed = members.router.gates(budget, tau, scale, noise=(step, micro_batch))
        assert self.elastic_config.router is not None
        self.last_router = {"tau": tau, "scale": scale, "budget": budget, "routed": routed}
        loss = self.elastic_config.router.loss_weight * members.router.budget_loss(routed, budget)
        return Draw(budget, share, routed.gates, loss)

    def _is_soft(self, step: int, micro_batch: int) -> bool:
        """Whether a micro-batch before the freeze runs under the router's masks; others train its present members."""
        assert self.elastic_config.router is not None
        share = self.elastic_config.router.soft_share
        return share >= 1 or self.sampler.soft(step, micro_batch, share)

    def output(self, tokens_bs: torch.Tensor | None, choice: Choice = None) -> Output:
        """The core module and what enters its head for a choice: what a loss needs, without logits."""
        self.hidden.state.choice = choice
        try:
            return self.hidden.core, hidden_states(self.hidden.core, tokens_bs)
        finally:
            self.hidden.state.choice = None

    @property
    def teaches_in_stages(self) -> bool:
        """Whether pipeline stages pass on a teacher's hidden states beside the student's, see `streams`."""
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        return stages > 1 and self.elastic_config.distill.mode != "ce"

    @property
    def validates_in_stages(self) -> bool:
        """Whether they do so in a validation: the whole model, where it teaches, has been seen on the last stage."""
        return self.teaches_in_stages and self.hidden.teacher is not None

    def set_input_tensor(self, received: list[torch.Tensor | None]) -> None:
        """Take what the pipeline stage before this one has given; megatron-core's schedule calls it."""
        self._received = part(received[0], self.hidden.core.config.hidden_size)
        self.hidden.core.set_input_tensor([self._received[0]])

    def training_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on: NeMo calls it instead of `training_step` on all but the last.

        Every stage draws for itself, the same.
        """
        tokens, draws = batch["tokens"], self.next_draws(self.trainer.global_step)
        (draw,) = draws
        self.ran.append(Ran(self._drawn[1] - 1, draw.budget, tokens, draw.choice))
        teacher = self._teacher_of(tokens, draws)
        hidden = self.output(tokens, draw.choice)[1]
        if not self.teaches_in_stages:
            return hidden
        return join(hidden, hidden if teacher is None else teacher[1])

    def training_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Loss of one micro-batch, summed over its tokens, the router's included: the mean over its budgets.

        The teacher runs once, before any student. `batch["elastic"]` gets (budget, share, loss sum) of each budget,
        without the router's, for the log.
        """
        tokens, mask = batch["tokens"], batch["loss_mask"]
        draws = self.next_draws(self.trainer.global_step)
        batch["elastic"], count = [], mask.sum()
        teacher = self._teacher_of(tokens, draws)

        def objective(draw: Draw) -> torch.Tensor:
            nonlocal teacher
            student = self.output(tokens, draw.choice)
            distill = self.elastic_config.distill
            taught = distill.mode in FROZEN or (distill.mode == "trainable" and draw.budget > 0)
            if distill.mode == "trainable" and draw.budget == 0:
                teacher = (student[0], student[1].detach())
            loss, _ = distill_loss(distill, student, teacher if taught else None, batch["labels"], mask)
            batch["elastic"].append((draw.budget, draw.share, loss.detach()))
            self.ran.append(Ran(self._drawn[1] - 1, draw.budget, tokens, draw.choice, loss.detach()))
            return draw.share * (loss if draw.router_loss is None else loss + draw.router_loss.float() * count)

        return sum_in_turn([partial(objective, draw) for draw in draws], self.hidden.core.config, count)

    def _teacher_of(self, tokens: torch.Tensor, draws: list[Draw]) -> Output | None:
        """The teacher's output, where it is not that of a student: the whole model is drawn first, if it is."""
        mode = self.elastic_config.distill.mode
        return self.teach(tokens) if mode in FROZEN or (mode == "trainable" and draws[0].budget > 0) else None

    @torch.no_grad()
    def teach(self, tokens: torch.Tensor | None) -> Output:
        """The teacher and what enters its head, or on all pipeline stages but the last what its layers here give.

        It is a model of its own, or in mode `trainable` the whole student.
        """
        core, given = self.hidden.teacher or self.hidden.core, self._received
        if given[1] is None:  # the first stage, or no pipeline
            return (core, hidden_states(core, tokens)) if self.hidden.teacher is not None else self.output(tokens)
        core.set_input_tensor([given[1].to(core.config.params_dtype)])
        try:
            return (core, hidden_states(core, None)) if self.hidden.teacher is not None else self.output(None)
        finally:
            core.set_input_tensor([given[0] if core is self.hidden.core else None])

    @property
    def training_loss_reduction(self) -> ElasticLossReduction:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._reduction

    # ------------------------------------------------------------------ validating

    def on_validation_model_zero_grad(self) -> None:
        """Called by Lightning before anything else of a validation: its loader takes a random number."""
        self._random_state = torch.get_rng_state()
        super().on_validation_model_zero_grad()

    def on_validation_start(self) -> None:
        """All members run, as they are now; the whole model alone before there are any."""
        names = [b.name for b in self.elastic_config.budgets]
        choices: list[Choice] = [None, *self.members.get()[1:]]
        self.heldout.begin(names[: len(choices)], choices, taught=self.hidden.teacher is not None)

    def validation_data_step(self, dataloader_iter: Any) -> dict[str, Any]:
        """The next micro-batch of a validation, with the member that it runs."""
        return self.heldout.next(lambda: self.data_step(dataloader_iter))

    def validation_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on for a member, on all but the last; the teacher runs beside the first one."""
        tokens = batch["tokens"]
        hidden = self.output(tokens, batch["choice"])[1]
        if not self.validates_in_stages:
            return hidden
        return join(hidden, self.teach(tokens)[1] if batch["member"] == 0 else hidden)

    def validation_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Sums of a member's losses over a micro-batch, see `HeldOut.measure`."""
        tokens = batch["tokens"]

        def teach() -> Output | None:
            return None if self.hidden.teacher is None else self.teach(tokens)

        return self.heldout.measure(batch, self.output(tokens, batch["choice"]), teach)

    @property
    def validation_loss_reduction(self) -> HeldOut:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.heldout

    def on_validation_epoch_end(self) -> None:
        """Log what was measured, for all loggers and for what monitors it."""
        for name, value in self.heldout.end().logged().items():
            self.log(name, value, batch_size=1)

    def on_validation_end(self) -> None:
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
            self._random_state = None

    def freeze(self, members: list[Subnet]) -> None:
        """Fix the shapes: from now on every step is sliced."""
        self.members.put(members, frozen=True)


def check_parallel(parent: Parent, world: int) -> None:
    """Raise where a tensor-parallel size does not divide the blocks of an axis that it shards."""
    for axis, kind in (("ffn", "mlp"), ("mamba_heads", "mamba"), ("attention_heads", "attention")):
        if kind in parent.types:
            parent.axis(axis).shard(world)
