# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How a training ends that something stops from outside, and what its process exits with.

Lightning ends it on SIGTERM with a SystemExit without a code, NeMo's PreemptionCallback with code 0 once it has
written a checkpoint: to whatever waits for success, both are a training that is done. Lightning makes 1 of Ctrl-C.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from nemo.lightning.ckpt_utils import ckpt_to_dir
from nemo.lightning.pytorch.callbacks import PreemptionCallback
from nemo.utils.callbacks.dist_ckpt_io import AsyncFinalizableCheckpointIO

from nemo_elastic.errors import INTERRUPTED, STOPPED
from nemo_elastic.formats.megatron.stored import first_line
from nemo_elastic.megatron.cpu import cuda_as_cpu

from .saved import is_whole, newest

#: exit code of a training that was stopped where no checkpoint holds what it had reached: what a shell says of SIGTERM
TERMINATED = 143


class Stopped(SystemExit):
    """A training that `StopInTime` has ended, with the exit code that it was given."""


class StopInTime(PreemptionCallback):
    """NeMo's callback that writes a checkpoint when a signal comes, after the step under way, and ends the process.

    Where a checkpoint cannot be written the exit code is TERMINATED. A signal in the last step changes nothing.

    Args:
        sig: the signal; SIGTERM by default.
        code: exit code. One of 0 lets go on what waits for the success of this job: the next one in a row.
    """

    def __init__(self, sig: int | None = None, code: int = STOPPED) -> None:
        super().__init__(sig)
        self.code = code

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
        raise Stopped(self.code if is_saved(trainer) else TERMINATED)


def settle(trainer: pl.Trainer, exception: BaseException) -> None:
    """Give a SystemExit that passes for success, though the training has not ended, the exit code that is true."""
    if isinstance(exception, SystemExit) and not exception.code and not isinstance(exception, Stopped):
        exception.code = STOPPED if is_saved(trainer) else TERMINATED


def is_saved(trainer: pl.Trainer) -> bool:
    """Whether a whole checkpoint holds the present state."""
    checkpoint: Any = trainer.checkpoint_callback
    written = getattr(checkpoint, "_last_checkpoint_saved", "")
    return (
        bool(written) and checkpoint._last_global_step_saved == trainer.global_step and is_whole(ckpt_to_dir(written))
    )


def told(trainer: pl.Trainer, exception: BaseException) -> str:
    """One line: which rank stops in which step, why, and what the next start goes on from."""
    where = f"rank {trainer.global_rank} of {trainer.world_size} stops in step {trainer.global_step}"
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    rest = newest(Path(folder)) if folder else "no checkpoints are written"
    if isinstance(exception, (SystemExit, KeyboardInterrupt)):
        code = exception.code or 0 if isinstance(exception, SystemExit) else INTERRUPTED
        return f"stopped: {where}, exit code {code}; {rest}"
    return f"error: {where}: {first_line(exception)}; {rest}"
