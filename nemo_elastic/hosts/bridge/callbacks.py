# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One callback: shapes when they are due, rates, every member's validation, the run's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import CheckpointSaveContext
from megatron.core import parallel_state

from nemo_elastic.history import METRICS
from nemo_elastic.megatron.family_step import (
    all_ranks,
    from_last_rank,
    losses_of_last_rank,
    mean_by_budget,
    tokens_counted,
)
from nemo_elastic.megatron.megatron_host import check_pipeline
from nemo_elastic.train.guard import Guard
from nemo_elastic.train.metrics import Progress, append, start_again, step_facts_of
from nemo_elastic.train.shaping import prepare_members, shape_members
from nemo_elastic.train.training import Rates

from .optim import ElasticScheduler, watch_optimizer
from .resume import ElasticCheckpoints, go_on_from
from .step import LOSS, ElasticStep


class ElasticCallback(Callback):
    """Prepares, compares and freezes the shapes, sets the rates, measures members, writes the run's metrics.

    Args:
        step: of the run.
        rates: learning rates over the curriculum.
        out: folder of the ranking, the search's trace and the frozen members.
        folder: of the run, for `metrics.jsonl`.
        previous: stages 2 and 3: what the one before left.
        label: of the phase, in every line.
        rank_only: write down what was found, and train nothing.
    """

    def __init__(
        self,
        step: ElasticStep,
        rates: Rates,
        out: str,
        folder: str,
        previous: str | None = None,
        label: str = "",
        rank_only: bool = False,
    ) -> None:
        self.step, self.rates, self.previous, self.label = step, rates, previous, label
        self.rank_only = rank_only
        self.out, self.file = Path(out), Path(folder) / METRICS
        self._tokens, self._before = 0, 0.0  # that have counted in the loss so far; seconds until this start

    # ------------------------------------------------------------------ a training

    def on_data_init_start(self, context: Any) -> None:
        """Model, optimizer and Bridge's checkpoint are loaded; stages 2 and 3 now load the one before."""
        host, family = self.step.host, self.step.family
        host.enter(context.state, context.optimizer, family.config.data.documents)
        context.state.cfg.checkpoint.ckpt_step = None  # it named what this start resumes from
        if self.previous is not None and host.step == 0:
            go_on_from(self.previous, context.state, context.model, context.optimizer)
        guard = None if context.state.cfg.optimizer.fp16 else Guard(family, host)
        watch_optimizer(context.model, context.optimizer, guard, clip=family.config.router is not None)
        ElasticScheduler.follow(context.scheduler, self.rates, host)

    def on_train_start(self, context: Any) -> None:
        family, host = self.step.family, self.step.host
        context.state.train_state.do_test = False  # Bridge would evaluate the test data at the end
        self._progress = Progress(self.label, context.state.cfg.train.train_iters, host.step)
        if host.first:
            self._tokens, self._before, _ = start_again(self.file, host.step)
        if not family.members.known:
            check_pipeline(parallel_state.get_pipeline_model_parallel_world_size(), "model.")
            prepare_members(family, host, self.out)
        if self.rank_only:
            self._save_ranking(context)
            context.state.cfg.train.train_iters = host.step  # Bridge asks before each step

    def on_train_step_start(self, context: Any) -> None:
        shape_members(self.step.family, self.step.host, self.out)
        self.step.totals, self.step.each = [], []
        context.scheduler.step(0)

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        step = self.step
        counted = tokens_counted(step.totals)
        self._tokens += counted
        by_budget = mean_by_budget(torch.stack(step.each).sum(0)) if step.each else {}
        losses = losses_of_last_rank(by_budget, len(step.family.config.budgets))
        line: dict[str, Any] = step_facts_of(step.family, losses)
        loss = (context.loss_dict or {}).get(LOSS)
        # of no token Bridge has no mean
        if counted and (parallel_state.get_pipeline_model_parallel_world_size() > 1 or loss is not None):
            loss = from_last_rank(torch.zeros(1) if loss is None else loss.detach().float().reshape(1).cpu())
            line["reduced_train_loss"] = float(loss)
        line |= {"lr": next(g["lr"] for g in context.optimizer.param_groups if g["params"])}
        if context.grad_norm is not None:
            line["grad_norm"] = float(context.grad_norm)
        seconds = self._before + self._progress.seconds
        self._write(step.host.step + 1, line | {"kind": "step", "seconds": seconds})
        self._progress.show(step.host.step + 1, line, step.host.first)
        if step.host.step + 1 == step.family.steps:  # what is saved after the last has its last shapes
            shape_members(step.family, step.host, self.out, step.family.steps)

    # ------------------------------------------------------------------ a validation

    def on_eval_start(self, context: Any) -> None:
        self.step.begin_validation()

    def on_eval_end(self, context: Any) -> None:
        """Bridge's iterator starts at the first sample of the data again where the run goes on after a stop."""
        heldout = self.step.heldout
        if self.step.rows:
            heldout.add(all_ranks(self.step.rows).cpu())
        measured = heldout.end(from_last_rank(heldout.sums))
        context.state.train_state.consumed_valid_samples = 0
        self._write(self.step.host.step, {"kind": "heldout", "losses": measured.losses, "kl": measured.kl})

    # ------------------------------------------------------------------ helpers

    def _save_ranking(self, context: Any) -> None:
        manager = ElasticCheckpoints(context.state.cfg.checkpoint)
        manager.save(CheckpointSaveContext(context.state, context.model, context.optimizer, context.scheduler, 0))
        manager.finalize_async_saves(context.state, blocking=True)

    def _write(self, step: int, line: dict[str, Any]) -> None:
        if self.step.host.first:
            append(self.file, {"phase": self.label, "step": step, "tokens": self._tokens} | line)
