# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What Megatron-Bridge calls for every micro-batch, and the hook that makes its model one of a family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.state import GlobalState

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.formats.megatron.stored import ELASTIC
from nemo_elastic.megatron.compat import named_parameters
from nemo_elastic.megatron.family_step import FamilyStep, report_parts
from nemo_elastic.megatron.models import build_teacher, check_rows, make_family
from nemo_elastic.train.heldout import CE_SUM, TOKENS, HeldOut
from nemo_elastic.train.training import FamilyTraining

from .host import BridgeHost

#: what Bridge's log calls the loss
LOSS = "lm loss"


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
        family, host, steps: of the training; the latter two since `build`.
        totals, each: what this rank's micro-batches of the present step reported, of all tokens and of the budgets.
        rows: the same of a validation's.
    """

    host: BridgeHost
    steps: FamilyStep

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
        self.heldout = HeldOut(config.distill)
        self.totals: list[torch.Tensor] = []
        self.each: list[torch.Tensor] = []
        self.rows: list[torch.Tensor] = []
        self._kept: dict[str, list[dict[str, Any]]] = {}  # data of a validation, by what is validated
        self._which, self._at = "", 0

    def __deepcopy__(self, memo: Any) -> ElasticStep:
        """megatron-core copies a model's config for every layer, and the config knows its hook: there is one of it."""
        return self

    # ------------------------------------------------------------------ building

    def build(self, model: list[Any]) -> list[Any]:
        """Make the model one of a family; Bridge calls it before data parallelism and the optimizer exist."""
        start = self.before()
        if len(model) > 1:
            raise bad("virtual_pipeline_model_parallel_size", len(model), "null: hybrid models have no virtual stages")
        core, distill = model[0], self.family.config.distill
        if start is not None:
            check_rows(core, start)
        teacher = None
        if distill.teacher == "frozen" and not self.rank_only:
            teacher = build_teacher(
                lambda config: config.provide(core.pre_process, core.post_process),
                self.provider,
                self.teacher,
                distill.teacher_precision,
            )
        weights = self.teacher if self.family.stage == 1 else None
        state = make_family(core, self.family, parent_of(self.provider, core.vocab_size, "model"), weights)
        if self.rank_only:  # vectors stay, so that Bridge has something to make an optimizer of
            for name, parameter in named_parameters(core):
                parameter.requires_grad_(name.startswith(ELASTIC) or parameter.ndim == 1)
        core.register_forward_pre_hook(_refuse)  # our step runs layers and head, never the whole
        self.host = BridgeHost(state, core, teacher)
        self.steps = FamilyStep(self.family, self.host, self.heldout)
        return model

    # ------------------------------------------------------------------ a micro-batch

    def __call__(self, state: GlobalState, data_iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
        """What this pipeline stage gives of the next micro-batch, and what makes a loss of it on the last."""
        core = self.host.core
        if not hasattr(self.host, "run"):
            raise bad("callbacks", None, "run.callbacks of apply_elastic: they prepare members, rates and checkpoints")
        self.host.wrapped = model
        if not core.pre_process:
            self.host.receive(core.decoder.input_tensor)
        read = partial(self.host.read, data_iterator)
        return self._train(read()) if core.training else self._validate(read)

    def _train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        samples = self.family.next_samples(self.host.step)
        if not self.host.core.post_process:
            return self.steps.pass_on(batch["tokens"], samples, batch["documents"]), None
        rows = (batch[name] for name in ("tokens", "labels", "loss_mask", "documents"))
        loss, parts = self.family.loss(self.host, samples, *rows)
        tokens = batch["loss_mask"].sum().to(torch.int)

        def report(loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            total, each = report_parts(parts, tokens, len(self.family.config.budgets))
            self.totals.append(total)
            self.each.append(each)
            return *self.host.counted(loss, batch["loss_mask"]), {LOSS: total}

        return loss, report

    # ------------------------------------------------------------------ validating

    def begin_validation(self, which: str) -> None:
        """Start a validation, each time on the same data: what Bridge's iterator gave the first time is kept."""
        self._which, self._at, self.rows = which, 0, []
        self.steps.begin_validation()

    def _validate(self, read: Callable[[], dict[str, Any]]) -> tuple[torch.Tensor, Any]:
        batch = self.heldout.next(lambda: self._again(read))
        if not self.host.core.post_process:
            return self.steps.pass_on_member(batch), None
        sums = self.steps.measure(batch)

        def report(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            self.rows.append(self.heldout.row(batch, sums))
            tokens = sums[TOKENS].to(torch.int)
            return sums[CE_SUM].clone(), tokens, {LOSS: sums[[CE_SUM, TOKENS]].float()}

        return sums, report

    def _again(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        kept = self._kept.setdefault(self._which, [])
        if self._at == len(kept):
            kept.append(read())
        self._at += 1
        return kept[self._at - 1]


def _refuse(*_: Any) -> None:
    raise bad(
        "forward_step", "another", "run.forward_step of apply_elastic, which samples members; so does run.pretrain()"
    )
