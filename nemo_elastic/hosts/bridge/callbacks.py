# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One callback: shapes when they are due, rates, every member's validation, the run's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import CheckpointSaveContext
from megatron.core import parallel_state

from nemo_elastic.history import METRICS
from nemo_elastic.hosts.common.ctrl_c import CtrlC
from nemo_elastic.megatron.family_loop import from_last_rank
from nemo_elastic.train.guard import Guard
from nemo_elastic.train.metrics import Metrics
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
        self.rank_only, self.ctrl_c = rank_only, CtrlC()
        self.out, self.file = Path(out), Path(folder) / METRICS

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
        host = self.step.host
        context.state.train_state.do_test = False  # Bridge would evaluate the test data at the end
        self._metrics = Metrics(self.file, self.label, context.state.cfg.train.train_iters, host.step, host.first)
        self.step.loop.run_began(self.out, "model.")
        self.ctrl_c.start(host.first)  # during the ranking there is nothing to save
        if self.rank_only:
            self._save_ranking(context)
            context.state.cfg.train.train_iters = host.step  # Bridge asks before each step

    def on_train_step_start(self, context: Any) -> None:
        self.step.loop.step_began()
        context.scheduler.step(0)

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        loop, done = self.step.loop, self.step.host.step + 1
        counted = loop.tokens_counted()
        self._metrics.tokens += counted
        facts = loop.step_ended(done)
        draw(context.state, facts, done)
        line = dict(facts)
        loss = (context.loss_dict or {}).get(LOSS)
        # of no token Bridge has no mean
        if counted and (parallel_state.get_pipeline_model_parallel_world_size() > 1 or loss is not None):
            loss = from_last_rank(torch.zeros(1) if loss is None else loss.detach().float().reshape(1).cpu())
            line["reduced_train_loss"] = float(loss)
        line |= {"lr": next(g["lr"] for g in context.optimizer.param_groups if g["params"])}
        if context.grad_norm is not None:
            line["grad_norm"] = float(context.grad_norm)
        self._metrics.step(done, line)

    # ------------------------------------------------------------------ a validation

    def on_eval_start(self, context: Any) -> None:
        self.step.begin_validation()

    def on_eval_end(self, context: Any) -> None:
        """Bridge's iterator starts at the first sample of the data again where the run goes on after a stop."""
        measured, step = self.step.loop.validation_ended(), self.step.host.step
        progress = context.state.train_state
        progress.consumed_valid_samples = 0
        if step == context.state.cfg.train.train_iters:
            progress.do_valid = False  # Bridge would validate the last step again at the end of the run
        draw(context.state, measured.logged(), step)
        self._metrics.heldout(step, {"losses": measured.losses, "kl": measured.kl})

    # ------------------------------------------------------------------ helpers

    def _save_ranking(self, context: Any) -> None:
        manager = ElasticCheckpoints(context.state.cfg.checkpoint)
        manager.save(CheckpointSaveContext(context.state, context.model, context.optimizer, context.scheduler, 0))
        manager.finalize_async_saves(context.state, blocking=True)


def draw(state: Any, series: Mapping[str, float], step: int) -> None:
    """Give figures of a step to the writers of Bridge's `logger` fields, which are on the last rank."""
    tensorboard, wandb = state.tensorboard_logger, state.wandb_logger
    if tensorboard is not None:
        for name, value in series.items():
            tensorboard.add_scalar(name, value, step)
    if wandb is not None and series:
        wandb.log(dict(series), step)
