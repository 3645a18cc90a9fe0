# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning callbacks: find and freeze the shapes, measure members while training, write the run's metrics.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from nemo.lightning import io
from nemo.lightning.megatron_parallel import MegatronStep
from nemo.utils.app_state import AppState

from nemo_elastic.errors import ElasticError
from nemo_elastic.history import METRICS
from nemo_elastic.hosts.nemo.checkpoint.resume import ending_line, settle
from nemo_elastic.io.temporary import is_temporary
from nemo_elastic.megatron.family_step import from_last_rank, losses_of_last_rank, tokens_counted
from nemo_elastic.megatron.megatron_host import check_pipeline
from nemo_elastic.train.metrics import Progress, append, candidates_of, start_again, step_facts_of
from nemo_elastic.train.shaping import prepare_members, shape_members

from .model import ElasticMambaModel
from .streams import with_teacher
from .validation import due, every_member, validate, validate_by_steps

#: metrics of a stock run that are kept beside our own
LOGGED = ("reduced_train_loss", "grad_norm", "lr")


class ElasticCallback(pl.Callback, io.IOMixin):
    """Finds shapes before the first step, compares and freezes them when due, logs what was measured, tells the end.

    Args:
        out: folder for the ranking, the search's trace and the frozen members (`ranking/`, `shapes.json`).
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        model: ElasticMambaModel = pl_module
        if not model.members.known:
            check_pipeline(parallel_state.get_pipeline_model_parallel_world_size())
            prepare_members(model.family, model.host, Path(self.out))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        shape_members(pl_module.family, pl_module.host, Path(self.out))

    def on_megatron_microbatches_start(self, step: Any) -> None:
        """Called by NeMo before a step's micro-batches run: those of a validation run every member."""
        if step.forward_only and isinstance(step.pl_module, ElasticMambaModel):
            every_member(step, len(step.pl_module.heldout.choices))

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Make room for the teacher's hidden states between pipeline stages."""
        return with_teacher(step, step.pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Say in one line, before any traceback, who stops and what the next start goes on from."""
        settle(trainer, exception)
        if not isinstance(exception, ElasticError):
            print(ending_line(trainer, exception), file=sys.stderr, flush=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        for name, value in step_facts(trainer, pl_module).items():
            pl_module.log(name, value, batch_size=1, prog_bar=name.startswith("loss_"))
        if trainer.global_step == pl_module.family.steps:  # due after the last step: what is saved has final shapes
            shape_members(pl_module.family, pl_module.host, Path(self.out))


def step_facts(trainer: pl.Trainer, model: ElasticMambaModel) -> dict[str, float]:
    """What the last step measured: losses of the budgets that it sampled, and of the router where it had a part in it.

    All ranks ask after every step; whoever asks again gets the same.
    """
    if model.facts[0] != trainer.global_step:
        model.facts = (trainer.global_step, step_facts_of(model.family, budget_losses(model)))
    return model.facts[1]


def budget_losses(model: ElasticMambaModel) -> dict[int, float]:
    """Budget index -> mean loss of the last step, on every rank."""
    return losses_of_last_rank(model.training_loss_reduction.by_budget, model.training_loss_reduction.budgets)


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
        self._before, self._measured = 0.0, -1  # seconds until this start; step of the last validation
        self._tokens, self._counts = 0, True  # that have counted in the loss so far; whether it says how many do
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
        own = self._file.resolve()
        state.files_to_move = [
            file for file in map(Path, state.files_to_move or ()) if file.resolve() != own and not is_temporary(file)
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._progress = Progress(self.label, trainer.max_steps, trainer.global_step)
        if trainer.is_global_zero:
            self._tokens, self._before, self._measured = start_again(self._file, trainer.global_step)
        validate_by_steps(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """By now all callbacks have started, so members are there. A stop may have come before a validation."""
        self._measured = trainer.strategy.broadcast(self._measured)
        if due(trainer) and self._measured != trainer.global_step:
            validate(trainer)

    def on_megatron_microbatches_end(self, step: MegatronStep, microbatch_outputs: list[Any]) -> None:
        """Called by NeMo after a step's micro-batches have run; padding counts in none of them."""
        if not step.forward_only:
            self._counts = all("loss_sum_and_ub_size" in out for out in microbatch_outputs)
            self._tokens += tokens_counted([out["loss_sum_and_ub_size"] for out in microbatch_outputs if self._counts])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        line: dict[str, Any] = {k: float(v) for k, v in trainer.callback_metrics.items() if k in LOGGED}
        if isinstance(pl_module, ElasticMambaModel):
            line |= step_facts(trainer, pl_module) | candidates_of(pl_module.family)
        self._write(trainer, line | {"kind": "step", "seconds": self._before + self._progress.seconds})
        self._progress.show(trainer.global_step, line, trainer.is_global_zero)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._steps = []

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Keep a stock model's loss: NeMo's `val_loss` is a mean in which the first step weighs less than the rest."""
        self._steps.append(torch.as_tensor(outputs).detach())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not self._steps:
            return
        self._measured = trainer.global_step
        if isinstance(pl_module, ElasticMambaModel):
            figures = {"losses": pl_module.heldout.measured.losses, "kl": pl_module.heldout.measured.kl}
        else:
            steps, self._steps = torch.stack(self._steps), []
            figures = {"losses": {"parent": float(from_last_rank(steps.double()).mean())}}
        if figures["losses"]:
            self._write(trainer, {"kind": "heldout", **figures})

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._measured != trainer.global_step:
            validate(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        settle(trainer, exception)

    def _write(self, trainer: pl.Trainer, line: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            tokens = self._tokens
            if not self._counts:  # NeMo's own distillation reports a mean alone
                sampler = trainer.datamodule.data_sampler  # pyright: ignore[reportAttributeAccessIssue]
                samples = sampler.compute_consumed_samples(trainer.global_step - sampler.init_global_step)
                tokens = samples * sampler.seq_len
            head = {"phase": self.label, "step": trainer.global_step, "tokens": tokens}
            append(self._file, head | line)
