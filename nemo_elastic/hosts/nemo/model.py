# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo as the host of a family (`train.seam`), and ElasticMambaModel: its MambaModel that trains a nested family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from nemo.collections import llm
from nemo.collections.llm.gpt.model.base import gpt_data_step
from nemo.lightning import get_vocab_size
from nemo.lightning.megatron_parallel import MaskedTokenLossReduction, MegatronLossReduction

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.hosts.common.agreement import check_vocabulary, vocabulary_rows
from nemo_elastic.megatron.choice import ElasticState
from nemo_elastic.megatron.compat import with_globals
from nemo_elastic.megatron.cpu import cuda_as_cpu
from nemo_elastic.megatron.family_step import FamilyStep, all_ranks, from_last_rank, mean_by_budget, report_of
from nemo_elastic.megatron.gpt_tokens import Looked, first_rows
from nemo_elastic.megatron.megatron_host import MegatronHost
from nemo_elastic.megatron.models import (
    build_teacher,
    check_overlaps,
    check_rows,
    make_family,
    refused_overlaps,
)
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.nn.rows import Rows
from nemo_elastic.train.heldout import CE_SUM, TOKENS, HeldOut, HeldOutLosses
from nemo_elastic.train.members import Members
from nemo_elastic.train.samples import Sample
from nemo_elastic.train.training import FamilyTraining

#: NeMo's, of whole rows where ranks share sequences out too: what a rank takes of them is `megatron.context`'s
_whole_batch = with_globals(gpt_data_step, get_batch_on_this_cp_rank=lambda batch: batch)


class NemoHost(MegatronHost):
    """A model of NeMo's in training.

    Args:
        module: the Lightning module, which knows its trainer.
        state, core, frozen: see `MegatronHost`.
    """

    def __init__(self, module: Any, state: ElasticState, core: Any, frozen: Any = None) -> None:
        super().__init__(state, core, frozen)
        self.module = module

    @property
    def wrapped(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        trainer = getattr(self.module, "_trainer", None)
        chunks = getattr(getattr(trainer, "strategy", None), "megatron_parallel", None)
        return chunks[0] if chunks else None

    @property
    def micro_batch_size(self) -> int:
        return self.module.trainer.datamodule.data_sampler.micro_batch_size

    @property
    def seq_length(self) -> int:
        return self.module.trainer.datamodule.data_sampler.seq_len

    @property
    def _loader(self) -> Any:
        trainer = self.module.trainer
        return trainer.train_dataloader or trainer.datamodule.train_dataloader()  # a ranking alone fits nothing

    def sequences(self, count: int, size: int) -> Iterator[Rows]:
        loader = self._loader
        return first_rows(loader.dataset, loader.collate_fn, self._read, count, size)

    def _read(self, loader: Iterator[Any]) -> dict[str, Any]:
        with cuda_as_cpu():
            return self.module.data_step(loader)

    def weights_changed(self) -> None:
        for optimizer in self.module.trainer.optimizers:  # its fp32 copies still hold the old ones
            optimizer.mcore_optimizer.reload_model_params()

    @property
    def step(self) -> int:
        return self.module.trainer.global_step


class ElasticLossReduction(MaskedTokenLossReduction):
    """NeMo's token-weighted mean, without the router's budget loss, and the mean of each budget for the log.

    `by_budget` holds budget index -> mean loss of the last step.
    """

    def __init__(self, budgets: int) -> None:
        super().__init__()
        self.budgets = budgets
        self.by_budget: dict[int, float] = {}

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:
        """(loss sum, tokens, report), as NeMo's own gives it for a loss per token.

        Args:
            batch: has the loss mask, in "counted" its tokens as megatron-core's schedule takes them, and in "elastic"
                what ran.
            forward_out: the micro-batch's loss with the router's, already weighted by the mask and summed over tokens.
        """
        total, each = report_of(batch["elastic"], batch["loss_mask"].sum().to(torch.int), self.budgets)
        report = {"loss_sum_and_ub_size": total, "by_budget": each}
        return forward_out, batch["counted"], report

    def reduce(self, losses_reduced_per_micro_batch: Any) -> torch.Tensor:
        if losses_reduced_per_micro_batch:
            self.by_budget = mean_by_budget(
                torch.stack([x["by_budget"] for x in losses_reduced_per_micro_batch]).sum(0)
            )
        loss = super().reduce(losses_reduced_per_micro_batch)
        # NeMo divides by the tokens that count, and a step may have none
        return loss if self.by_budget or not losses_reduced_per_micro_batch else torch.zeros_like(loss)


class HeldOutReduction(HeldOut, MegatronLossReduction):
    """`HeldOut` as NeMo's reduction of a validation."""

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:  # pyright: ignore
        """(loss sum, tokens, report) of a micro-batch."""
        return forward_out[CE_SUM].clone(), forward_out[TOKENS].to(torch.int), self.row(batch, forward_out)

    def reduce(self, losses_reduced_per_micro_batch: Sequence[torch.Tensor]) -> torch.Tensor:  # pyright: ignore
        """The mean over members of their cross-entropy on all data-parallel ranks: what NeMo logs as `val_loss`."""
        sums = all_ranks(losses_reduced_per_micro_batch)
        self.add(sums)
        ran = sums[sums[:, TOKENS] > 0]
        return (ran[:, CE_SUM] / ran[:, TOKENS]).sum().float() / max(1, len(ran))

    def end(self, sums: torch.Tensor | None = None) -> HeldOutLosses:
        """What was measured, on every rank: only the last pipeline stage has seen it. All ranks call it."""
        return super().end(from_last_rank(self.sums) if sums is None else sums)


class ElasticMambaModel(llm.MambaModel):
    """A Nemotron-H whose micro-batches each train one budget of a nested family.

    The megatron-core module keeps its exact type, its parameter names, and gets one submodule more, `elastic` (router
    and found members). Any stock SSMConfig serves: nothing is subclassed.

    Args:
        config: NeMo's SSMConfig of the parent.
        elastic: the elastic block as JSON values (`ElasticConfig.to_dict`).
        teacher: NeMo checkpoint of the parent: the frozen teacher, and what stage 1 starts from.
        stage: 1 learns the shapes and then the weights; 2 and 3 only the weights, of shapes that stage 1 froze.
        stage_steps: optimizer steps of this stage; tau, scale and freezing are laid out over those of stage 1.
        done_steps: of the stages before, as `ElasticResume` reads them.
        optim: `ElasticOptimizer`; tokenizer, model_transform: as in NeMo.
    """

    host: NemoHost
    steps: FamilyStep

    def __init__(
        self,
        config: Any = None,
        elastic: dict | None = None,
        teacher: str | None = None,
        stage: int = 1,
        stage_steps: int = 1,
        done_steps: int = 0,
        optim: Any = None,
        tokenizer: Any = None,
        model_transform: Callable | None = None,
    ) -> None:
        super().__init__(config, optim=optim, tokenizer=tokenizer, model_transform=model_transform)
        # NeMo captures constructor arguments for checkpoints; the base's constructor has just captured only its own
        captured = {"elastic": elastic, "teacher": teacher, "stage": stage, "stage_steps": stage_steps,
                    "done_steps": done_steps}  # fmt: skip
        for name, value in captured.items():
            setattr(self.__io__, name, value)
        self.done_steps = done_steps
        self.family = FamilyTraining(ElasticConfig.from_dict(elastic), stage, stage_steps)
        if self.elastic_config.distill.teacher == "frozen" and teacher is None:
            raise bad("teacher", teacher, "the parent's checkpoint: distill.teacher is frozen")
        self.teacher_path = teacher
        self.start: str | Path | None = None  # what NeMo is going to load, by `ElasticResume`
        self._reduction = ElasticLossReduction(len(self.elastic_config.budgets))
        self.heldout = HeldOutReduction(self.elastic_config.distill)
        self._random_state: torch.Tensor | None = None  # from before a validation
        self.facts: tuple[int, dict[str, float]] = (-1, {})  # (steps done, what is logged of the last)

    # ------------------------------------------------------------------ building

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build the elastic module, router and teacher; load the parent's weights unless NeMo loads others."""
        if hasattr(self, "module"):
            return
        if self._trainer is not None:
            ddp, optimizer = getattr(self._trainer.strategy, "ddp_config", None), getattr(self.optim, "config", None)
            pipeline = parallel_state.get_pipeline_model_parallel_world_size()
            refused = refused_overlaps(pipeline)
            check_overlaps({"trainer.strategy.ddp": ddp, "optim.config": optimizer}, refused)
        distill = self.elastic_config.distill
        self.config.mamba_stack_spec = elastic_stack_spec
        self._take_vocabulary()
        teacher = None
        if distill.teacher == "frozen":
            teacher = build_teacher(
                lambda config: config.configure_model(self.tokenizer),
                self.config,
                self.teacher_path,
                distill.teacher_precision,
            )
        super().configure_model(vp_stage)
        core = self.module
        if self.start is not None:
            check_rows(core, self.start)
        weights = self.teacher_path if self.stage == 1 and self.start is None else None
        state = make_family(core, self.family, parent_of(self.config, core.vocab_size), weights)
        # nn.Module.__setattr__ is not asked: nothing in it must be registered
        object.__setattr__(self, "host", NemoHost(self, state, core, teacher))
        object.__setattr__(self, "steps", FamilyStep(self.family, self.host, self.heldout))

    def _take_vocabulary(self) -> None:
        """Let the model have the rows of the teacher, or of what it starts from, whatever ranks they were padded for.

        Raises:
            ElasticError: the tokenizer is not the teacher's.
        """
        rows = vocabulary_rows(self.teacher_path or self.start)
        if rows is None:
            return
        tokens, ranks = self.tokenizer.vocab_size, self.config.tensor_model_parallel_size  # pyright: ignore
        check_vocabulary(tokens, rows, ranks, "recipe.data.tokenizer.vocab_size", "tensor_model_parallel_size")
        if get_vocab_size(self.config, tokens, self.config.make_vocab_size_divisible_by) != rows:
            self.config.make_vocab_size_divisible_by = rows // ranks

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

    def next_sample(self) -> Sample:
        """What the next micro-batch trains; every pipeline rank samples for itself, the same."""
        return self.family.next_sample(self.host)

    @property
    def teaches_in_pipeline(self) -> bool:
        """Whether pipeline stages pass on the teacher's hidden states together with the student's."""
        return self.steps.teaches_in_pipeline

    @property
    def validates_in_pipeline(self) -> bool:
        """Whether they do so in a validation: the whole model, where it teaches, has been seen on the last stage."""
        return self.steps.validates_in_pipeline

    def set_input_tensor(self, received: list[torch.Tensor | None]) -> None:
        """Take what the pipeline stage before this one has given; megatron-core's schedule calls it."""
        self.host.receive(received[0])

    def data_step(self, dataloader_iter: Any) -> dict[str, Any]:
        """The next micro-batch, whose tokens are in the vocabulary, with its `documents` where they are kept apart.

        Raises:
            ElasticError: they are not, or the data does not say where documents begin.
        """
        looked = Looked(dataloader_iter, self.host.core.vocab_size, self.elastic_config.data.documents)
        step = self.config.data_step_fn  # pyright: ignore[reportAttributeAccessIssue]
        if parallel_state.get_context_parallel_world_size() > 1:
            if step is not gpt_data_step:
                raise bad("recipe.model.config.data_step_fn", step, "NeMo's own where ranks share sequences out")
            step = _whole_batch
        return {**step(looked), "documents": looked.documents}

    def training_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on: NeMo calls it instead of `training_step` on all but the last."""
        return self.steps.pass_on(batch["tokens"], self.next_sample(), batch.get("documents"))

    def training_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Loss of one micro-batch, see `FamilyTraining.loss`; `batch["elastic"]` gets what ran, for the log."""
        rows = batch["tokens"], batch["labels"], batch["loss_mask"]
        loss, ran = self.family.loss(self.host, self.next_sample(), *rows, batch.get("documents"))
        batch["elastic"] = ran
        loss, batch["counted"] = self.host.loss_and_tokens(loss, batch["loss_mask"])
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
        self.steps.begin_validation()

    def validation_data_step(self, dataloader_iter: Any) -> dict[str, Any]:
        """The next micro-batch of a validation, with the member that it runs."""
        return self.heldout.next(lambda: self.data_step(dataloader_iter))

    def validation_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on for a member, on all but the last; the teacher runs beside the first one."""
        return self.steps.pass_on_member(batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Sums of a member's losses over a micro-batch, see `HeldOut.measure`."""
        return self.steps.measure(batch)

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
