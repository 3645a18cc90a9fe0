# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal on Megatron-Bridge, and what watches them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nemo_run
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import save_checkpoint
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain

from nemo_elastic.formats.megatron.metadata import ITERATION, TRACKER
from nemo_elastic.hosts.bridge.apply import ElasticRun, use_our_layers
from nemo_elastic.hosts.bridge.curriculum import BridgeFamily, family_of, plain, train_to_the_end
from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
from nemo_elastic.hosts.bridge.step import ElasticStep
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun

from .short import SEQUENCES, stage_of, watch_of
from .watch import Watch, link


class BridgeWatch(Watch, Callback):
    """A `Watch` of Bridge's loop, called after the callback that prepares the members.

    Args:
        step: of the run.
        out, stop_after: see `Watch`.
    """

    def __init__(self, step: ElasticStep, out: str, stop_after: int | None = None) -> None:
        super().__init__(out, stop_after)
        self.step = step

    def on_train_start(self, context: Any) -> None:
        state, checkpoint = context.state, context.state.cfg.checkpoint
        number = state.train_state.step

        def save(place: Path) -> None:
            # a new optimizer has no moments yet
            changed = {"save": str(place), "most_recent_k": -1, "save_optim": number > 0 or self.step.family.stage > 1}
            before = {name: getattr(checkpoint, name) for name in changed}
            vars(checkpoint).update(changed)
            try:
                save_checkpoint(state, context.model, context.optimizer, context.scheduler, 0)
            finally:
                vars(checkpoint).update(before)

        def keep(place: Path) -> None:
            iteration = Path(checkpoint.load, f"{ITERATION}{number:07d}")
            link(iteration, place / iteration.name)
            (place / TRACKER).write_text(str(number))

        self.begin(number, save, keep if number else None)

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        self.reached(context.state.train_state.step + 1)

    def on_train_end(self, context: Any) -> None:
        self.end(context.state.train_state.step, self.step.loop, self.step.host.datasets(0, SEQUENCES, 0)[1])


def parent_recipe(family: BridgeFamily, run: CurriculumRun) -> Any:
    """The narrow parent's training for a moment, by Bridge's own recipe of it."""
    config = family.stock_recipe("parent", run)
    use_our_layers(config.model)
    config.model.seq_length, config.scheduler.lr_decay_iters = config.dataset.seq_length, config.train.train_iters
    config.comm_overlap = None
    config.ddp.overlap_grad_reduce = config.ddp.overlap_param_gather = False
    return config


def watched(job: ElasticRun, out: str, stop_after: int | None) -> ElasticRun:
    """A stage with a `Watch`."""
    return replace(job, callbacks=[*job.callbacks, BridgeWatch(job.forward_step, out, stop_after)])


def task(family: BridgeFamily, built: Any, job: str, run: CurriculumRun) -> nemo_run.Partial:
    """What each process of a job calls."""
    return nemo_run.Partial(rehearse_job, family=plain(family), run=run.to_dict(), job=job)


def rehearse_job(family: dict[str, Any], run: dict[str, Any], job: str) -> None:
    """What each process of a rehearsal's job does.

    Args:
        family: see `hosts.bridge.curriculum.plain`.
        run: the job's, see `CurriculumRun.to_dict`.
        job: see `short.jobs`.
    """
    scaled = CurriculumRun.from_dict(run)
    recipe = family_of(family, scaled)
    if job == "parent":
        config = parent_recipe(recipe, scaled)
        with bridge_on_this_machine(config):
            pretrain(config, forward_step)
        return
    built = recipe.build(stage_of(job), scaled)
    watch = watch_of(job, scaled)
    train_to_the_end(built if watch is None else watched(built, *watch))
