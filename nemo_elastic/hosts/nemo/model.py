# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo as the host of a family (`train.seam`), and ElasticMambaModel: its MambaModel that trains a nested family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from nemo_elastic.megatron.family_loop import FamilyLoop
from nemo_elastic.megatron.gpt_tokens import CheckedBatches, first_rows
from nemo_elastic.megatron.megatron_host import MegatronHost
from nemo_elastic.megatron.models import check_overlaps, family_models, refused_overlaps
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.nn.rows import Rows
from nemo_elastic.train.heldout import CE_SUM, TOKENS
from nemo_elastic.train.members import Members
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
    """NeMo's token-weighted mean, without the router's budget loss."""

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:
        """(loss sum, tokens, report), as NeMo's own gives it for a loss per token.

        Args:
            batch: has the micro-batch's `report` of `FamilyLoop.train_batch`.
            forward_out: its loss with the router's, already weighted by the mask and summed over tokens.
        """
        tokens, total = batch["report"]
        return forward_out, tokens, {"loss_sum_and_ub_size": total}

    def reduce(self, losses_reduced_per_micro_batch: Any) -> torch.Tensor:
        """NeMo's mean over all data-parallel ranks; 0, where NeMo has NaN, for a step without a token that counts."""
        totals = [x["loss_sum_and_ub_size"] for x in losses_reduced_per_micro_batch]
        if not totals:
            return super().reduce(totals)
        stacked = torch.vstack(totals)
        # where, not a filter: that would wait for the GPU
        total = stacked.where(stacked[:, 1:] > 0, 0).sum(0)
        torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return total[0] / total[1].clamp(min=1)


class HeldOutReduction(MegatronLossReduction):
    """A validation as NeMo takes it.

    Args:
        loop: measures it.
    """

    def __init__(self, loop: FamilyLoop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:
        """(loss sum, tokens, report) of a micro-batch."""
        return forward_out[CE_SUM].clone(), forward_out[TOKENS].to(torch.int), forward_out

    def reduce(self, losses_reduced_per_micro_batch: Any) -> torch.Tensor:
        """The mean over members of their cross-entropy on all data-parallel ranks: what NeMo logs as `val_loss`."""
        sums = self.loop.add_up()
        ran = sums[sums[:, TOKENS] > 0]
        return (ran[:, CE_SUM] / ran[:, TOKENS]).sum().float() / max(1, len(ran))


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
    loop: FamilyLoop
    _heldout: HeldOutReduction

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
        self._reduction = ElasticLossReduction()
        self._random_state: torch.Tensor | None = None  # from before a validation

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
        self.config.mamba_stack_spec = elastic_stack_spec
        self._take_vocabulary()
        super().configure_model(vp_stage)
        core = self.module
        state, teacher = family_models(
            core,
            self.family,
            parent_of(self.config, core.vocab_size),
            lambda config: config.configure_model(self.tokenizer),
            self.config,
            self.teacher_path,
            self.start,
        )
        # nn.Module.__setattr__ is not asked: nothing in it must be registered
        object.__setattr__(self, "host", NemoHost(self, state, core, teacher))
        object.__setattr__(self, "loop", FamilyLoop(self.family, self.host))
        object.__setattr__(self, "_heldout", HeldOutReduction(self.loop))

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

    def data_step(self, dataloader_iter: Any) -> dict[str, Any]:
        """The next micro-batch, whose tokens are in the vocabulary, with its `documents` where they are kept apart.

        Raises:
            ElasticError: they are not, or the data does not say where documents begin.
        """
        batches = CheckedBatches(dataloader_iter, self.host.core.vocab_size, self.elastic_config.data.documents)
        step = self.config.data_step_fn  # pyright: ignore[reportAttributeAccessIssue]
        if parallel_state.get_context_parallel_world_size() > 1:
            if step is not gpt_data_step:
                raise bad("recipe.model.config.data_step_fn", step, "NeMo's own where ranks share sequences out")
            step = _whole_batch
        return {**step(batches), "documents": batches.documents}

    def training_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on: NeMo calls it instead of `training_step` on all but the last."""
        return self.loop.train_batch(batch)[0]

    def training_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Loss of one micro-batch, see `FamilyLoop.train_batch`; `batch` gets its report."""
        loss, batch["report"] = self.loop.train_batch(batch)
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
        self.loop.validation_began()

    def validation_data_step(self, dataloader_iter: Any) -> dict[str, Any]:
        """The next micro-batch of a validation, with the member that it runs."""
        return self.loop.heldout.next(lambda: self.data_step(dataloader_iter))

    def validation_forward_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a pipeline stage passes on for a member, on all but the last."""
        return self.loop.valid_batch(batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int | None = None) -> torch.Tensor:
        """Sums of a member's losses over a micro-batch, see `FamilyLoop.valid_batch`."""
        return self.loop.valid_batch(batch)

    @property
    def validation_loss_reduction(self) -> HeldOutReduction:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._heldout

    def on_validation_epoch_end(self) -> None:
        """Log what was measured, for all loggers and for what monitors it."""
        for name, value in self.loop.validation_ended().logged().items():
            self.log(name, value, batch_size=1)

    def on_validation_end(self) -> None:
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
            self._random_state = None
