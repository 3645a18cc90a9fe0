# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge as a host (`train.seam`): the hook that makes its model one of a family, and its forward step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.data.loaders import get_train_valid_test_num_samples
from megatron.bridge.data.utils import get_dataset_provider
from megatron.bridge.training.gpt_step import get_batch
from megatron.bridge.training.state import GlobalState
from megatron.bridge.training.utils.pg_utils import get_pg_collection

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.formats.megatron.stored import ELASTIC
from nemo_elastic.megatron.compat import named_parameters, with_globals
from nemo_elastic.megatron.family_loop import FamilyLoop
from nemo_elastic.megatron.gpt_tokens import CheckedBatches, first_rows
from nemo_elastic.megatron.megatron_host import MegatronHost
from nemo_elastic.megatron.models import family_models
from nemo_elastic.nn.rows import Rows
from nemo_elastic.train.heldout import CE_SUM, TOKENS
from nemo_elastic.train.training import FamilyTraining

#: what Bridge's log calls the loss
LOSS = "lm loss"
#: Bridge's, of whole rows where ranks share sequences out too: what a rank takes of them is `megatron.context`'s
whole_batch = with_globals(
    get_batch,
    get_batch_on_this_cp_rank=lambda batch, **_: batch,
    _partition_packed_batch_for_cp=lambda batch, _: batch,
)


class BridgeHost(MegatronHost):
    """A model that Megatron-Bridge trains.

    Attributes:
        run: Bridge's state of the run, and optimizer: its optimizer; both since `enter`.
    """

    run: Any
    optimizer: Any
    setting: str | None

    def enter(self, run: Any, optimizer: Any, setting: str | None = None) -> None:
        """Take what Bridge has built around the model, and how documents are read (`elastic.data.documents`)."""
        self.run, self.optimizer, self.setting = run, optimizer, setting

    @property
    def micro_batch_size(self) -> int:
        return self.run.cfg.train.micro_batch_size

    @property
    def seq_length(self) -> int:
        return self.run.cfg.dataset.seq_length

    @cached_property
    def _data(self) -> Any:
        """The training data, built as Bridge builds it, which hands out iterators alone: to rank is to look ahead."""
        samples, _, _ = get_train_valid_test_num_samples(self.run.cfg)
        return self.datasets(samples, 0, 0)[0]

    def datasets(self, *samples: int) -> Sequence[Any]:
        """Training, validation and test data of so many samples each, as Bridge builds them."""
        config = self.run.cfg.dataset
        provider = get_dataset_provider(config)
        context = {"tokenizer": self.run.tokenizer, "pg_collection": get_pg_collection(self.core)}
        asked = inspect.signature(provider).parameters
        return provider(list(samples), config, **{name: value for name, value in context.items() if name in asked})

    def sequences(self, count: int, size: int) -> Iterator[Rows]:
        return first_rows(self._data, getattr(self._data, "collate_fn", None), self.read, count, size)

    def read(self, loader: Iterator[Any]) -> dict[str, Any]:
        """The next micro-batch: tokens on the first pipeline stage, labels and mask on the last, None elsewhere.

        Where its documents end every stage knows: those in the middle are given packed data too, and other data is
        read apart on two stages at most (`checks.check_data`).
        """
        batches = CheckedBatches(loader, self.core.vocab_size, self.setting)
        tokens, labels, mask, *_ = whole_batch(batches, self.run.cfg, pg_collection=get_pg_collection(self.core))
        weights = None if mask is None else mask.float()
        return {"tokens": tokens, "labels": labels, "loss_mask": weights, "documents": batches.documents}

    def weights_changed(self) -> None:
        self.optimizer.reload_model_params()  # its fp32 copies still hold the old ones

    @property
    def step(self) -> int:
        return self.run.train_state.step


class ElasticStep:
    """Bridge's forward step of a family: `pretrain(config, step, callbacks=…)`.

    Args:
        provider: Bridge's model provider, which calls `build` before it wraps the model.
        config: the elastic block.
        teacher: checkpoint of the parent: the frozen teacher, and what stage 1 starts from.
        stage: 1, 2 or 3.
        steps: optimizer steps of this stage.
        before: called before anything is loaded: looks at what the run starts from, and gives what Bridge will load.
        rank_only: nothing is trained: there is no teacher, and no gradients and optimizer state of any matrix.

    Attributes:
        family, host, loop: of the training; the latter two since `build`.
    """

    host: BridgeHost
    loop: FamilyLoop

    def __init__(
        self,
        provider: Any,
        config: ElasticConfig,
        *,
        teacher: str | None,
        stage: int,
        steps: int,
        before: Callable[[], Path | None],
        rank_only: bool = False,
    ) -> None:
        self.provider, self.teacher, self.before = provider, teacher, before
        self.rank_only = rank_only
        self.family = FamilyTraining(config, stage, steps)
        self._kept: list[dict[str, Any]] = []  # data of a validation
        self._at = 0

    def __deepcopy__(self, memo: Any) -> ElasticStep:
        """megatron-core copies a model's config for every layer, and the config knows its hook: there is one of it."""
        return self

    # ------------------------------------------------------------------ building

    def build(self, model: list[Any]) -> list[Any]:
        """Make the model one of a family; Bridge calls it before data parallelism and the optimizer exist."""
        start = self.before()
        if len(model) > 1:
            raise bad("virtual_pipeline_model_parallel_size", len(model), "null: hybrid models have no virtual stages")
        core = model[0]
        state, teacher = family_models(
            core,
            self.family,
            parent_of(self.provider, core.vocab_size, "model"),
            lambda config: config.provide(core.pre_process, core.post_process),
            self.provider,
            self.teacher,
            start,
            trains=not self.rank_only,
        )
        if self.rank_only:  # vectors stay, so that Bridge has something to make an optimizer of
            for name, parameter in named_parameters(core):
                parameter.requires_grad_(name.startswith(ELASTIC) or parameter.ndim == 1)
        core.register_forward_pre_hook(_refuse)  # our step runs layers and head, never the whole
        self.host = BridgeHost(state, core, teacher)
        self.loop = FamilyLoop(self.family, self.host)
        return model

    # ------------------------------------------------------------------ a micro-batch

    def __call__(self, state: GlobalState, data_iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
        """What this pipeline stage gives of the next micro-batch, and what makes a loss of it on the last."""
        if not hasattr(self.host, "run"):
            raise bad("callbacks", None, "run.callbacks of apply_elastic: they prepare members, rates and checkpoints")
        self.host.wrapped = model
        read = partial(self.host.read, data_iterator)
        return self._train(read()) if self.host.core.training else self._validate(read)

    def _train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        out, report = self.loop.train_batch(batch)
        return out, report and (lambda loss: (loss, report.tokens, {LOSS: report.total}))

    # ------------------------------------------------------------------ validating

    def begin_validation(self) -> None:
        """Start a validation, each time on the same data: what Bridge's iterator gave the first time is kept."""
        self._at = 0
        self.loop.validation_began()

    def _validate(self, read: Callable[[], dict[str, Any]]) -> tuple[torch.Tensor, Any]:
        sums = self.loop.valid_batch(self.loop.heldout.next(lambda: self._again(read)))

        def report(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            return sums[CE_SUM].clone(), sums[TOKENS].to(torch.int), {LOSS: sums[[CE_SUM, TOKENS]].float()}

        return sums, report if self.host.core.post_process else None

    def _again(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self._at == len(self._kept):
            self._kept.append(read())
        self._at += 1
        return self._kept[self._at - 1]


def _refuse(*_: Any) -> None:
    raise bad(
        "forward_step", "another", "run.forward_step of apply_elastic, which samples members; so does run.pretrain()"
    )
