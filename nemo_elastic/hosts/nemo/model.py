# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""ElasticMambaModel: NeMo's MambaModel that trains a nested family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from nemo.collections import llm

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.hosts.nemo.checkpoint.load import load_model_weights
from nemo_elastic.kernels import check_widths
from nemo_elastic.megatron.mixer import have_kernels
from nemo_elastic.megatron.run import ElasticState
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.megatron.vocabulary import make_elastic
from nemo_elastic.nn.gates import Choice
from nemo_elastic.train.members import Members
from nemo_elastic.train.training import Draw, FamilyTraining

from .host import NemoHost
from .loss import ElasticLossReduction, Output
from .members import SavedMembers
from .streams import join
from .teacher import build_teacher
from .validation import HeldOutReduction


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

    host: NemoHost

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
        self.family = FamilyTraining(ElasticConfig.from_dict(elastic), stage, stage_steps)
        if self.elastic_config.distill.teacher == "frozen" and teacher is None:
            raise bad("teacher", teacher, "the parent's checkpoint: distill.teacher is frozen")
        self.teacher_path = teacher
        self._reduction = ElasticLossReduction(len(self.elastic_config.budgets))
        self.heldout = HeldOutReduction(self.elastic_config.distill)
        self._random_state: torch.Tensor | None = None  # from before a validation
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
        if distill.teacher == "frozen":
            teacher = build_teacher(self.config, self.tokenizer, self.teacher_path, distill.teacher_precision)
        super().configure_model(vp_stage)
        core = self.module
        vocab = core.vocab_size
        parent = self.elastic_config.parent_shape(parent_of(self.config, vocab))
        world = parallel_state.get_tensor_model_parallel_world_size()
        check_tensor_parallel(parent, world)
        axes = self.elastic_config.resolve_axes(parent)
        if have_kernels():
            check_widths(parent, axes, world)
        router = self.family.new_router(parent)
        members = SavedMembers(parent, len(self.elastic_config.budgets), router).to(next(core.parameters()).device)
        core.add_module("elastic", members)
        self.family.members = members
        if self.stage == 1 and self.teacher_path is not None:
            load_model_weights(core, self.teacher_path)
        state = ElasticState(parent)
        make_elastic(core, state)
        # nn.Module.__setattr__ is not asked: nothing in it must be registered
        object.__setattr__(self, "host", NemoHost(self, state, core, teacher))

    @property
    def elastic_config(self) -> ElasticConfig:
        return self.family.config

    @property
    def stage(self) -> int:
        return self.family.stage

    @property
    def parent(self) -> Parent:
        return self.family.parent

    @property
    def members(self) -> Members:
        return self.family.members

    # ------------------------------------------------------------------ stepping

    def next_draws(self) -> list[Draw]:
        """What the next micro-batch trains; every pipeline stage draws for itself, the same."""
        return self.family.next_draws(self.trainer.global_step)

    @property
    def teaches_in_stages(self) -> bool:
        """Whether pipeline stages pass on a teacher's hidden states beside the student's, see `streams`."""
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        return stages > 1 and self.elastic_config.distill.taught

    @property
    def validates_in_stages(self) -> bool:
        """Whether they do so in a validation: the whole model, where it teaches, has been seen on the last stage."""
        return self.teaches_in_stages and self.host.frozen is not None

    def set_input_tensor(self, received: list[torch.Tensor | None]) -> None:
        """Take what the pipeline stage before this one has given; megatron-core's schedule calls it."""
        self.host.receive(received[0])

    def training_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on: NeMo calls it instead of `training_step` on all but the last."""
        tokens, draws = batch["tokens"], self.next_draws()
        (draw,) = draws
        self.family.remember(draw, tokens)
        teacher = self.family.teacher_of(self.host, tokens, draws)
        hidden = self.host.student(tokens, draw.choice)[1]
        if not self.teaches_in_stages:
            return hidden
        return join(hidden, hidden if teacher is None else teacher[1])

    def training_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Loss of one micro-batch, see `FamilyTraining.loss`; `batch["elastic"]` gets its parts, for the log."""
        loss, parts = self.family.loss(
            self.host, self.next_draws(), batch["tokens"], batch["labels"], batch["loss_mask"]
        )
        batch["elastic"] = parts
        return loss

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
        self.heldout.begin(names[: len(choices)], choices, taught=self.host.frozen is not None)

    def validation_data_step(self, dataloader_iter: Any) -> dict[str, Any]:
        """The next micro-batch of a validation, with the member that it runs."""
        return self.heldout.next(lambda: self.data_step(dataloader_iter))

    def validation_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on for a member, on all but the last; the teacher runs beside the first one."""
        tokens = batch["tokens"]
        hidden = self.host.student(tokens, batch["choice"])[1]
        if not self.validates_in_stages:
            return hidden
        return join(hidden, self.host.teacher(tokens)[1] if batch["member"] == 0 else hidden)

    def validation_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Sums of a member's losses over a micro-batch, see `HeldOut.measure`."""
        tokens = batch["tokens"]

        def teach() -> Output | None:
            return None if self.host.frozen is None else self.host.teacher(tokens)

        return self.heldout.measure(self.host, batch, self.host.student(tokens, batch["choice"]), teach)

    @property
    def validation_loss_reduction(self) -> HeldOutReduction:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.heldout

    def on_validation_epoch_end(self) -> None:
        """Log what was measured, for all loggers and for what monitors it."""
        for name, value in self.heldout.end().logged().items():
            self.log(name, value, batch_size=1)

    def on_validation_end(self) -> None:
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
            self._random_state = None


def check_tensor_parallel(parent: Parent, world: int) -> None:
    """Raise where a tensor-parallel size does not divide the blocks of an axis that it shards."""
    for kind in parent.kinds:
        for axis in kind.axes:
            if axis.blocks is not None:
                parent.axis(axis.name).shard(world)
