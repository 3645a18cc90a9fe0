# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning callbacks: find and freeze the shapes, measure members while training, write the run's metrics.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from nemo.lightning import io
from nemo.lightning.megatron_parallel import MegatronStep
from nemo.utils.app_state import AppState

from nemo_elastic.history import METRICS
from nemo_elastic.hosts.nemo.checkpoint.resume import correct_exit_code
from nemo_elastic.io.write import is_temporary
from nemo_elastic.megatron.family_loop import from_last_rank, tokens_counted
from nemo_elastic.megatron.megatron_host import twice_as_wide
from nemo_elastic.train.metrics import Metrics

from .model import ElasticMambaModel

#: metrics of a stock run that are written as well
LOGGED = ("reduced_train_loss", "grad_norm", "lr")


class ElasticCallback(pl.Callback, io.IOMixin):
    """Finds shapes before the first step, compares and freezes them when due, logs what was measured.

    Args:
        out: folder for the ranking, the search's trace and the frozen members (`ranking/`, `shapes.json`).
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.loop.run_began(Path(self.out))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.loop.step_began()

    def on_megatron_microbatches_start(self, step: Any) -> None:
        """Called by NeMo before a step's micro-batches run: those of a validation run every member."""
        if step.forward_only and isinstance(step.pl_module, ElasticMambaModel):
            every_member(step, len(step.pl_module.loop.heldout.choices))

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Make room for the teacher's hidden states between pipeline stages."""
        if not step.pl_module.loop.two_streams(training=not step.forward_only):
            return step
        return TwoStreams(**{field.name: getattr(step, field.name) for field in fields(MegatronStep)})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        for name, value in pl_module.loop.step_ended(trainer.global_step).items():
            pl_module.log(name, value, batch_size=1, prog_bar=name.startswith("loss_"))


class MetricsWriter(pl.Callback, io.IOMixin):
    """Writes one JSON line per step, and one per validation with the held-out losses of every member.

    It has the run validated before its first step and after its last, too. A run that goes on from a checkpoint goes
    on in the same file, as if it had not been stopped: see `history`. Works with a stock MambaModel too (the parent's
    training), where the one member is the model itself.

    Args:
        path: JSON lines file; `metrics.jsonl` in the run's log directory if not given.
        label: phase name written to every line, and printed with the progress about every two seconds.
    """

    def __init__(self, path: str | None = None, label: str = "") -> None:
        self.path, self.label = path, label
        self._counts = True  # whether the loss says how many tokens count in it
        self._steps: list[torch.Tensor] = []  # losses of a validation's steps

    def io_transform_args(self, init_fn: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Record both arguments: NeMo takes a record of one for the name of a pickle, and loads no context with it."""
        return {"path": None, "label": ""} | super().io_transform_args(init_fn, *args, **kwargs)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Leave the file where it is: NeMo would move it away, as all files that it finds in its log directory.

        Also what a killed writer left beside it, which the next one clears away before NeMo has moved it.
        """
        state = AppState()
        self._file = Path(self.path or Path(state.log_dir or ".", METRICS))
        ours = self._file.resolve()
        state.files_to_move = [
            file for file in map(Path, state.files_to_move or ()) if file.resolve() != ours and not is_temporary(file)
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._metrics = Metrics(self._file, self.label, trainer.max_steps, trainer.global_step, trainer.is_global_zero)
        validate_by_steps(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """By now all callbacks have started, so members are there. A stop may have come before a validation."""
        self._metrics.validated = trainer.strategy.broadcast(self._metrics.validated)
        if due(trainer) and self._metrics.validated != trainer.global_step:
            validate(trainer)

    def on_megatron_microbatches_end(self, step: MegatronStep, microbatch_outputs: list[Any]) -> None:
        """Called by NeMo after a step's micro-batches have run; padding counts in none of them."""
        if not step.forward_only:
            self._counts = all("loss_sum_and_ub_size" in out for out in microbatch_outputs)
            self._metrics.tokens += tokens_counted(
                [out["loss_sum_and_ub_size"] for out in microbatch_outputs if self._counts]
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        line: dict[str, Any] = {k: float(v) for k, v in trainer.callback_metrics.items() if k in LOGGED}
        if isinstance(pl_module, ElasticMambaModel):
            line |= pl_module.loop.step_ended(trainer.global_step)
        self._count(trainer)
        self._metrics.step(trainer.global_step, line)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._steps = []

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Keep a stock model's loss: NeMo's `val_loss` is a mean in which the first step weighs less than the rest."""
        self._steps.append(torch.as_tensor(outputs).detach())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not self._steps:
            return
        if isinstance(pl_module, ElasticMambaModel):
            measured = pl_module.loop.heldout.measured
            figures = {"losses": measured.losses, "kl": measured.kl}
        else:
            steps, self._steps = torch.stack(self._steps), []
            figures = {"losses": {"parent": float(from_last_rank(steps.double()).mean())}}
        self._count(trainer)
        self._metrics.heldout(trainer.global_step, figures)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._metrics.validated != trainer.global_step:
            validate(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        correct_exit_code(trainer, exception)

    def _count(self, trainer: pl.Trainer) -> None:
        """Count tokens by samples where the loss does not: NeMo's own distillation reports a mean alone."""
        if not self._counts:
            sampler = trainer.datamodule.data_sampler  # pyright: ignore[reportAttributeAccessIssue]
            samples = sampler.compute_consumed_samples(trainer.global_step - sampler.init_global_step)
            self._metrics.tokens = samples * sampler.seq_len


# ------------------------------------------------------------------------------------------------ steps of NeMo's


class TwoStreams(MegatronStep):
    """NeMo's step over a pipeline whose stages pass on both streams."""

    @property
    def adjust_tensor_shapes_fn(self) -> Callable:
        return twice_as_wide


def every_member(step: Any, members: int) -> None:
    """Let a validation step of NeMo's run every member on all data that is left: `on_megatron_microbatches_start`.

    NeMo's loop counts `limit_val_batches` in micro-batches, and its steps take as many as those of training: where a
    limit is below that, it validates nothing and does not say so. Here a validation is one step of all that the limit
    allows.

    Args:
        step: NeMo's MegatronStep; changed.
        members: how many.
    """
    if step.has_global_batch_sampler:  # fine-tuning: a batch of the loader is a global one, which is split here
        data, length = step.get_data_iterator_and_seq_length()
        # read by our side from here on, one micro-batch at a time
        step.has_global_batch_sampler, step.data, step.seq_length = False, data, length or step.seq_length
    elif getattr(step.data, "length", None) is not None:
        step.num_microbatches = step.data.length - step.data.fetched
    step.num_microbatches *= members


def due(trainer: Any) -> bool:
    """Whether the steps done so far are a multiple of `val_check_interval`."""
    every = trainer.val_check_batch
    return trainer.enable_validation and every != float("inf") and trainer.global_step % every == 0


def validate_by_steps(trainer: Any) -> None:
    """Let Lightning validate when it is `due`, and each time on all of the data, also in a run that was resumed.

    Its own count goes on one too far where a checkpoint was written before a step was over, as most are. One that was
    written at the end of a validation says that the next validation has read a part of its data.
    """
    loop = trainer.fit_loop.epoch_loop
    # NeMo's loop says so where a run starts again: Lightning would repeat the validation and leave out a batch for it
    loop._should_check_val_fx = lambda _: due(trainer) and not getattr(loop, "skip_val_on_restart", False)
    loop.val_loop.batch_progress.reset_on_run()


def validate(trainer: Any) -> None:
    """Run a validation where Lightning does not: before the first step, and at the end. All ranks call it."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    try:
        with torch.random.fork_rng(devices=()):  # a loader that starts takes a number
            loop.run()
    finally:
        trainer.training = True
        connector._first_loop_iter = first
