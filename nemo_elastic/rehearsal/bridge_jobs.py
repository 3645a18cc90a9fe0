# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal on Megatron-Bridge, and what watches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nemo_run
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import save_checkpoint
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain

from nemo_elastic.formats.megatron.metadata import ITERATION, TRACKER
from nemo_elastic.hosts.bridge.apply import ElasticRun, use_our_layers
from nemo_elastic.hosts.bridge.checks import BridgeRecipe
from nemo_elastic.hosts.bridge.curriculum import (
    BridgeFamily,
    checkpoints,
    family_of,
    plain,
    slicing,
    stop_in_time,
    train_to_the_end,
)
from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
from nemo_elastic.hosts.bridge.step import ElasticStep
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job, described
from nemo_elastic.slicing.family_folder import slice_family

from .report import Settings
from .short import CUT_SHORT, SEQUENCES, Short, parent_run, rehearsed, watch_dir
from .watch import Watch, link


class BridgeWatch(Watch, Callback):
    """A `Watch` of Bridge's loop, behind the callback that has prepared the members.

    Args:
        step: of the run.
        out, stop_after: see `Watch`.
    """

    def __init__(self, step: ElasticStep, out: str) -> None:
        super().__init__(out)
        self.step = step

    def on_train_start(self, context: Any) -> None:
        state, checkpoint = context.state, context.state.cfg.checkpoint
        number = state.train_state.step

        def save(place: Path) -> None:
            # a new optimizer has no moments yet
            own = {"save": str(place), "most_recent_k": -1, "save_optim": number > 0 or self.step.family.stage > 1}
            before = {name: getattr(checkpoint, name) for name in own}
            vars(checkpoint).update(own)
            try:
                save_checkpoint(state, context.model, context.optimizer, context.scheduler, 0)
            finally:
                vars(checkpoint).update(before)

        def keep(place: Path) -> None:
            own = Path(checkpoint.load, f"{ITERATION}{number:07d}")
            link(own, place / own.name)
            (place / TRACKER).write_text(str(number))

        self.begin(number, save, keep if number else None)

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        self.reached(context.state.train_state.step + 1)

    def on_train_end(self, context: Any) -> None:
        self.end(context.state.train_state.step, self.step.steps, self.step.host.datasets(0, SEQUENCES, 0)[1])


def parent_of(dir: str) -> str:
    """What the parent's own training leaves."""
    return checkpoints(dir, "parent")


def left_by(own: CurriculumRun) -> dict[str, str]:
    """What the jobs of a run leave that run a model."""
    return {name: checkpoints(own.dir, name) for name in own.jobs[:-1]}


def rehearsal_jobs(
    family: BridgeFamily, real: CurriculumRun, own: CurriculumRun, short: Short
) -> tuple[dict[str, Job], Settings]:
    """All jobs of a rehearsal's run, `own`, and their settings; each process makes it of the `real` one again."""
    runs, ranks = watched_jobs(family, own), short.ranks
    given = {"family": plain(family), "run": real.to_dict(), "short": asdict(short), "dir": own.dir}
    configs = {"parent": parent_config(family, parent_run(own, short))}
    for name, built in runs.items():
        configs |= dict.fromkeys((CUT_SHORT, name) if name == "stage1" else (name,), built.config)
    jobs = {
        title: described(
            BridgeRecipe(config), nemo_run.Partial(rehearse_job, job=title, **given), stop_in_time, (1, ranks)
        )
        for title, config in configs.items()
    }
    jobs["slice"] = Job(nemo_run.Partial(slice_family, **slicing(own)))
    return jobs, _settings(runs, own.dir)


def settings_of(family: BridgeFamily, run: CurriculumRun) -> Settings:
    """Settings of all jobs of a run."""
    return _settings(family.build_all(run), run.dir)


def _settings(runs: Mapping[str, ElasticRun], dir: str) -> Settings:
    return {name: one.settings() for name, one in runs.items()} | {"slice": {"dir": dir}}


def watched_jobs(family: BridgeFamily, own: CurriculumRun) -> dict[str, ElasticRun]:
    """The jobs of a rehearsal's run, each with what watches it."""
    runs = family.build_all(own)
    for name in own.jobs[1:-1]:
        runs[name].callbacks.append(BridgeWatch(runs[name].forward_step, watch_dir(own.dir, name)))
    return runs


def parent_config(family: BridgeFamily, own: CurriculumRun) -> Any:
    """The narrow parent's own training, for a moment, by Bridge's own recipe of it."""
    config = family.stock_config("parent", own)
    use_our_layers(config.model)
    config.model.seq_length, config.scheduler.lr_decay_iters = config.dataset.seq_length, config.train.train_iters
    config.comm_overlap = None
    config.ddp.overlap_grad_reduce = config.ddp.overlap_param_gather = False
    return config


def rehearse_job(family: dict[str, Any], run: dict[str, Any], short: dict[str, Any], dir: str, job: str) -> None:
    """What each process of a rehearsal's job does.

    Args:
        family: see `hosts.bridge.curriculum.plain`.
        run: the recipe's, see `CurriculumRun.to_dict`.
        short: how much is trained, its fields.
        dir: of the rehearsal.
        job: parent, or one of the recipe's.
    """
    real = CurriculumRun.from_dict(run)
    recipe, how = family_of(family, real), Short(**{**short, "micro_batches": tuple(short["micro_batches"])})
    own = [*rehearsed(recipe, real, how, dir, parent_of(dir)).values()][-1]
    if job == "parent":
        config = parent_config(recipe, parent_run(own, how))
        with bridge_on_this_machine(config):
            pretrain(config, forward_step)
        return
    built = watched_jobs(recipe, own)["stage1" if job == CUT_SHORT else job]
    if job == CUT_SHORT:
        built.callbacks[-1].stop_after = own.save_every + 1
    train_to_the_end(built)
