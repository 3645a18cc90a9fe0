# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How a run on NeMo ends and resumes: from its newest whole checkpoint, and no other, with the same block.

NeMo marks a checkpoint as unfinished until it is whole. Its own classes refuse to start beside one that a kill left as
the only one, write the last checkpoint of a run again over itself, keep one alone, and take whatever lies there for
whole; these do neither. What a whole checkpoint is, `hosts.common.checkpoints` says.

Lightning ends a training on SIGTERM with a SystemExit without a code, NeMo's PreemptionCallback with code 0 once it
has written a checkpoint: to whatever waits for success, both are a training that is done. Lightning makes 1 of Ctrl-C,
and saves nothing.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from nemo import lightning as nl
from nemo.lightning.ckpt_utils import ckpt_to_dir
from nemo.lightning.pytorch.callbacks import PreemptionCallback
from nemo.utils.app_state import AppState
from nemo.utils.callbacks.dist_ckpt_io import AsyncFinalizableCheckpointIO
from nemo.utils.get_rank import is_global_rank_zero
from torch import distributed
from torch.distributed.checkpoint import CheckpointException

from nemo_elastic.errors import INTERRUPTED, STOPPED, ElasticError
from nemo_elastic.formats.megatron.stored import first_line
from nemo_elastic.hosts.common.checkpoints import NEMO, on_first, report, write_list
from nemo_elastic.hosts.common.ctrl_c import CtrlC
from nemo_elastic.megatron.cpu import cuda_as_cpu

__all__ = ["FILENAME", "ElasticCheckpoint", "ElasticResume", "StopInTime", "correct_exit_code", "folder_of"]

#: of checkpoints: `step=11-last` after 12 steps, for NeMo logs the step before it is counted
FILENAME = "{step}"
#: exit code of a training that was stopped without a checkpoint of its last step: a shell's code for SIGTERM
TERMINATED = 143


@dataclass(kw_only=True)
class ElasticResume(nl.AutoResume):
    """AutoResume that takes the newest whole checkpoint, and no other, and compares the elastic block with its own.

    What it starts from is looked at before NeMo opens it. The tokenizer is the recipe's, never the checkpoint's: to
    build that one, NeMo would call whatever the checkpoint's `io.json` names.
    """

    def _find_trainer_ckpt_path(self) -> Path | None:
        chosen, passed = self._choose()
        report(passed, is_global_rank_zero())
        return chosen

    def _choose(self) -> tuple[Path | None, list[str]]:
        """The run's own newest whole checkpoint, and what to say of newer ones."""
        folder = self.resume_from_directory or (AppState().log_dir and Path(AppState().log_dir) / "checkpoints")
        return NEMO.choose(Path(folder)) if folder else (None, [])

    def setup(self, trainer: Any, model: Any = None) -> None:
        """As the base class, after the checkpoint and the block have been looked at.

        Raises:
            ElasticError: what it starts from is not there, is damaged or may run something, or the run would go on
                with another family.
        """
        start = None
        if self.restore_config is not None:
            self.restore_config.load_artifacts = False
            self.restore_config.load_model_state = True  # the model has no other weights
            start = Path(self.restore_config.path)
            if not self.resume_from_path and self._choose()[0] is None and not NEMO.is_finished(start):
                whole = NEMO.whole(start.parent)  # what a run leaves at its end is not there: the run was stopped
                left = f"its run reached {whole[-1].name}" if whole else "its run left no checkpoint"
                raise ElasticError(f"start: {start} is missing or not whole; {left}; start that run again")
        super().setup(trainer, model)
        if trainer.ckpt_path:
            start = folder_of(trainer.ckpt_path)
        if start is None:
            return
        block = getattr(model, "elastic_config", None)
        stage = 1 if block is None else model.stage
        steps = None if block is None else model.family.steps
        lines = NEMO.check_start(start, block, stage, resumed=bool(trainer.ckpt_path), steps=steps)
        if block is not None:
            model.start, model.done_steps = start, NEMO.done_steps(start, stage, bool(trainer.ckpt_path))
        report(lines, is_global_rank_zero())


def folder_of(path: str | Path) -> Path:
    """The checkpoint of which NeMo names the folder, or that of its weights."""
    return Path(path).parent if Path(path).name == "weights" else Path(path)


class ElasticCheckpoint(nl.ModelCheckpoint):
    """A ModelCheckpoint whose saves are whole or absent.

    It never overwrites a whole checkpoint of the same step, leaves nothing half-written, writes down what a checkpoint
    consists of, and keeps more than the last: should that be damaged, there is one to go back to.

    Attributes:
        kept: how many are kept of those called `*-last`; while one is written there is one more.
    """

    kept = 2

    def setup(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """As the base class; what is damaged makes room, for its name will be written again.

        Raises:
            ElasticError: ranks have chosen several checkpoints.
        """
        if distributed.is_initialized():  # which it was not when each rank chose
            chosen: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(chosen, trainer.ckpt_path)
            if len(set(chosen)) > 1:
                found = " and ".join(sorted(map(str, set(chosen))))
                raise ElasticError(f"resume: ranks found {found}; start again when all see the same files")
        if self.dirpath:
            on_first(lambda: NEMO.set_aside(Path(self.dirpath)))
        super().setup(trainer, *args, **kwargs)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path:
            self._last_global_step_saved = trainer.global_step

    def _save_last_checkpoint(self, trainer: Any, monitor_candidates: Any) -> None:
        """As the base class, once per state: after the last step NeMo would save it again, under the next epoch."""
        last = self.last_model_path and ckpt_to_dir(self.last_model_path)
        if not last or not on_first(lambda: NEMO.step(last) == trainer.global_step and NEMO.is_whole(last)):
            super()._save_last_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        saved, checkpoint = self._last_global_step_saved == trainer.global_step > 0, ckpt_to_dir(filepath)
        if saved and on_first(lambda: NEMO.is_whole(checkpoint)):  # all ranks save, or none
            return
        before = self._last_global_step_saved
        try:
            super()._save_checkpoint(trainer, filepath)
        except (Exception, CheckpointException) as error:  # the latter is none of the former
            self._last_global_step_saved = before
            raise NEMO.failed(ckpt_to_dir(filepath), error, first=is_global_rank_zero()) from error

    def _get_finalize_save_checkpoint_callback(
        self, trainer: Any, filepath: str, global_step: int
    ) -> Callable[[], None]:
        """What is done when all ranks have written, at once or, with asynchronous saves, later: the mark goes."""
        finish = super()._get_finalize_save_checkpoint_callback(trainer, filepath, global_step)

        def done() -> None:
            on_first(lambda: write_list(ckpt_to_dir(filepath), global_step))
            finish()

        return done

    def _remove_checkpoint(self, trainer: Any, filepath: str, override_async: bool = False) -> None:
        later = self.async_save and not override_async  # it is asked again when the new one is whole
        if later or not str(ckpt_to_dir(filepath)).endswith("last"):
            return super()._remove_checkpoint(trainer, filepath, override_async)
        for checkpoint in on_first(lambda: NEMO.superseded(Path(self.dirpath), self.kept)):
            super()._remove_checkpoint(trainer, str(checkpoint), override_async)
        return None


class Stopped(SystemExit):
    """A training that `StopInTime` has ended, with the exit code that it was given."""


class StopInTime(PreemptionCallback):
    """On SIGTERM or Ctrl-C writes a checkpoint after the step under way, ends the process, and prints how it ended.

    The exit code is INTERRUPTED after Ctrl-C, and TERMINATED where a checkpoint cannot be written. A signal in the
    last step changes nothing.

    Args:
        sig: the signal in place of SIGTERM.
        code: exit code. One of 0 lets go on what waits for the success of this job: the next one in a row.
    """

    def __init__(self, sig: int | None = None, code: int = STOPPED) -> None:
        super().__init__(sig)
        self.code = code
        self.ctrl_c = CtrlC()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.ctrl_c.start(trainer.is_global_zero)

    @property
    def interrupted(self) -> bool:
        with cuda_as_cpu():  # the base class puts a flag on the current CUDA device
            return super().interrupted

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if not self.interrupted or trainer.global_step == trainer.max_steps:
            return
        checkpoint: Any = trainer.checkpoint_callback
        if checkpoint is not None:
            checkpoint._save_last_checkpoint(trainer, checkpoint._monitor_candidates(trainer))
            if isinstance(trainer.strategy.checkpoint_io, AsyncFinalizableCheckpointIO):
                trainer.strategy.checkpoint_io.maybe_finalize_save_checkpoint(blocking=True)
        # a rank that has ended with an error would let a launcher kill those that still write
        trainer.strategy.barrier()
        raise Stopped(INTERRUPTED if self.ctrl_c.pressed else self.code if is_saved(trainer) else TERMINATED)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.ctrl_c.stop()
        super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Print one line before any traceback: why the run stops, and which checkpoint the next start resumes from."""
        self.ctrl_c.stop()
        correct_exit_code(trainer, exception)
        if not isinstance(exception, ElasticError):
            print(ending_line(trainer, exception), file=sys.stderr, flush=True)


def correct_exit_code(trainer: pl.Trainer, exception: BaseException) -> None:
    """Give a SystemExit that passes for success, though the training has not ended, the exit code that is true."""
    if isinstance(exception, SystemExit) and not exception.code and not isinstance(exception, Stopped):
        exception.code = STOPPED if is_saved(trainer) else TERMINATED


def is_saved(trainer: pl.Trainer) -> bool:
    """Whether a whole checkpoint holds the present state."""
    checkpoint: Any = trainer.checkpoint_callback
    written = getattr(checkpoint, "_last_checkpoint_saved", "")
    if not written or checkpoint._last_global_step_saved != trainer.global_step:
        return False
    return NEMO.is_whole(ckpt_to_dir(written))


def ending_line(trainer: pl.Trainer, exception: BaseException) -> str:
    """One line: which rank stops in which step, why, and what the next start resumes from."""
    where = f"rank {trainer.global_rank} of {trainer.world_size} stops in step {trainer.global_step}"
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    rest = NEMO.newest(Path(folder)) if folder else "no checkpoints are written"
    if isinstance(exception, (SystemExit, KeyboardInterrupt)):
        code = exception.code or 0 if isinstance(exception, SystemExit) else INTERRUPTED
        return f"stopped: {where}, exit code {code}; {rest}"
    return f"error: {where}: {first_line(exception)}; {rest}"
