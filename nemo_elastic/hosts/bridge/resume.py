# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How a run on Megatron-Bridge saves and resumes: from its newest whole checkpoint, or what the stage before it left.

What a whole checkpoint is, `hosts.common.checkpoints` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.checkpointing import (
    CheckpointSaveContext,
    DefaultCheckpointManager,
    load_checkpoint,
)
from megatron.bridge.training.state import TrainState
from megatron.bridge.training.utils.checkpoint_utils import checkpoint_exists
from megatron.bridge.utils.instantiate_utils import register_allowed_target_prefix
from torch.distributed.checkpoint import CheckpointException

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import model_in
from nemo_elastic.formats.megatron.metadata import ITERATION, TRACKER, last_iteration
from nemo_elastic.formats.megatron.torch_files import check_file
from nemo_elastic.hosts.common.checkpoints import (
    BRIDGE,
    NEWEST_STATE,
    on_first,
    remove,
    report,
    step_of,
    write_list,
)

from .optim import own_groups

__all__ = ["ElasticCheckpoints", "check_start", "go_on_from", "use_our_manager"]


class ElasticCheckpoints(DefaultCheckpointManager):
    """Bridge's manager with saves that are whole or absent.

    A checkpoint is marked until it is whole, and what it consists of is written down. A save that fails leaves nothing
    half-written and ends the run in one line.
    """

    def __init__(self, checkpoint_config: Any) -> None:
        super().__init__(checkpoint_config)
        self._saving: list[Path] = []  # saves under way beside the training, the oldest first

    def save(self, ctx: CheckpointSaveContext, callback_manager: Any = None) -> None:
        """As the base class; a temporary checkpoint is Bridge's business alone."""
        if ctx.non_persistent_ckpt:
            return super().save(ctx, callback_manager)
        config = self.checkpoint_config
        target = _of_step(config.save, int(ctx.state.train_state.step))
        kept = config.most_recent_k
        with _or_nothing(target):
            on_first(lambda: _begin(target))
            config.most_recent_k = -1  # Bridge would remove one before the new one is whole
            try:
                super().save(ctx, callback_manager)
            finally:
                config.most_recent_k = kept
            if config.async_save:
                self._saving.append(target)
            else:
                on_first(lambda: self._finish(target))
        return None

    def finalize_async_saves(self, state: Any, blocking: bool = False, terminate: bool = False) -> None:
        """As the base class; what has been written by all ranks meanwhile is whole now."""
        with _or_nothing(self._saving[0]) if self._saving else nullcontext():
            super().finalize_async_saves(state, blocking, terminate)
            queue = state.async_calls_queue if self._saving else None
            left = 0 if queue is None else queue.get_num_unfinalized_calls()
            while len(self._saving) > left:
                target = self._saving.pop(0)
                on_first(lambda target=target: self._finish(target))

    def _finish(self, target: Path) -> None:
        """All ranks have written all of it."""
        write_list(target, step_of(target))
        BRIDGE.mark(target).unlink()
        kept = self.checkpoint_config.most_recent_k
        for old in BRIDGE.superseded(target.parent, max(1, kept)) if kept > -1 else ():
            remove(old)


def _begin(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    BRIDGE.mark(target).touch()


def use_our_manager(checkpoint: Any) -> None:
    """Have Bridge's settings of checkpoints name our manager, unless they name one already."""
    if checkpoint.custom_manager_class is None:
        register_allowed_target_prefix(__name__)
        checkpoint.custom_manager_class = f"{__name__}.{ElasticCheckpoints.__qualname__}"


@contextmanager
def _or_nothing(target: Path) -> Iterator[None]:
    """Remove what a save that fails has left, and say so in one line."""
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter is none of the former
        raise BRIDGE.failed(target, error, first=torch.distributed.get_rank() == 0) from error


def _of_step(folder: str, step: int) -> Path:
    return Path(folder) / f"{ITERATION}{step:07d}"


def check_start(
    checkpoint: Any,
    config: ElasticConfig,
    stage: int,
    previous: str | None,
    first: bool,
    rank_only: bool = False,
    steps: int | None = None,
) -> tuple[Path | None, int]:
    """Look at what a run is going to load, before it is loaded, and compare its block with the run's.

    Args:
        checkpoint: Bridge's settings of checkpoints.
        config: the elastic block.
        stage: 1 to 3.
        previous: checkpoint of the stage before, for stages 2 and 3.
        first: whether this rank prints.
        rank_only: whether the run is a ranking.
        steps: of the stage.

    Returns:
        What is going to be loaded, None for nothing but the teacher; and the steps of the stages before.

    Raises:
        ElasticError: it is damaged, may run something, belongs to another family, or its stage has not ended.
    """
    resumed, passed = on_first(lambda: _resume_from(checkpoint))
    report(passed, first)
    if resumed is not None:
        checkpoint.ckpt_step = step_of(resumed)  # Bridge would start from what its trackers name
    resumed = resumed or last_iteration(checkpoint.load)
    start = resumed or last_iteration(previous or checkpoint.pretrained_checkpoint)
    if start is None:
        if previous is not None:
            left = model_in(Path(previous))  # the folder of a training holds its checkpoints in another
            hint = f", such as {left}" if left is not None else ""
            raise bad("previous", previous, f"a folder with a checkpoint of Megatron-Bridge's{hint}")
        return None, 0
    lines = BRIDGE.check_start(start, config, 0 if rank_only else stage, resumed is not None, steps)
    if resumed is None and os.path.lexists(newest := start.parent / NEWEST_STATE):
        check_file(newest)  # by which Bridge finds it
    report(lines, first)
    return start, BRIDGE.done_steps(start, stage, resumed=resumed is not None)


def _resume_from(checkpoint: Any) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, None to start afresh, and a line for each checkpoint that is passed over.

    It is the one of `checkpoint.ckpt_step`, else the newest whole one. In a folder to which the run also saves,
    damaged checkpoints are renamed and the tracker is corrected; the folder of another run stays as it is.
    """
    if checkpoint.load is None:
        return None, []
    folder = Path(checkpoint.load)
    if checkpoint.ckpt_step is None:
        resumed, passed = BRIDGE.choose(folder)
    else:
        resumed, passed = _of_step(checkpoint.load, checkpoint.ckpt_step), []
        why = BRIDGE.problem(resumed) if resumed.is_dir() else "no such folder"
        if why is not None:
            raise ElasticError(f"checkpoint.ckpt_step: {resumed}: {why}")
    if checkpoint.load == checkpoint.save and torch.distributed.is_initialized():
        BRIDGE.clear(folder, resumed)
    if resumed is not None and not checkpoint_exists(checkpoint.load):
        raise ElasticError(
            f"checkpoint.load: {folder}: without {TRACKER} Megatron-Bridge does not load {resumed.name}"
        )
    return resumed, passed


def go_on_from(previous: str, state: Any, model: list[Any], optimizer: Any) -> None:
    """Load weights, members and the optimizer's state of the stage before, and count steps from 0 again."""
    checkpoint = state.cfg.checkpoint
    before, checkpoint.load = checkpoint.load, str(Path(previous))
    try:
        with own_groups():
            load_checkpoint(state, model, optimizer, None)
    finally:
        checkpoint.load = before
    state.train_state = TrainState()
