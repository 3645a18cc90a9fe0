# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a run on Megatron-Bridge starts from: its own last whole checkpoint, or what the stage before it left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.checkpointing import load_checkpoint
from megatron.bridge.training.state import TrainState

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.megatron.context import read_context
from nemo_elastic.formats.megatron.harmless import check_file, check_harmless
from nemo_elastic.formats.megatron.stored import ITERATION, last_iteration
from nemo_elastic.train.resume import check_same_family, may_change

from .chained import experts_shared_or_not
from .saved import NEWEST_STATE, choose, problem, set_aside, step_of

__all__ = ["check_start", "forget_passed", "go_on_from"]


def check_start(checkpoint: Any, config: ElasticConfig, stage: int, previous: str | None, first: bool) -> Path | None:
    """Look at what a run is going to load, before it is loaded, and compare its block with the run's.

    Args:
        checkpoint: Bridge's settings of checkpoints.
        config: the elastic block.
        stage: 1 or 2.
        previous: what stage 2 goes on from.
        first: whether this rank prints.

    Returns:
        What is going to be loaded; None for nothing but the teacher.

    Raises:
        ElasticError: it is damaged, may run something, or belongs to another family.
    """
    own, passed = _own(checkpoint)
    for line in passed if first else ():
        print(f"  resume: {line}", flush=True)
    if own is not None:
        checkpoint.ckpt_step = step_of(own)  # Bridge would start from what its tracker names
    own = own or last_iteration(checkpoint.load)
    start = own or last_iteration(previous or checkpoint.pretrained_checkpoint)
    if start is None:
        if previous is not None:
            raise bad("previous", previous, "a folder with a checkpoint of Megatron-Bridge's")
        return None
    check_harmless(start, only_weights=True)
    if own is None and os.path.lexists(newest := start.parent / NEWEST_STATE):
        check_file(newest)  # by which Bridge finds it
    before = read_context(start).elastic
    if before is None and own is None and stage == 1:
        return start  # a parent as it was: ranked in this run
    changes = check_same_family(before, config.to_dict(), start, may_change(stage, resumed=own is not None))
    for line in changes if first else ():
        print(f"  resume: {line}", flush=True)
    return start


def _own(checkpoint: Any) -> tuple[Path | None, list[str]]:
    """Of the run's own checkpoints the newest whole one, or the one that the recipe names, and what is passed over."""
    if checkpoint.ckpt_step is None or checkpoint.load is None:
        return choose(checkpoint.load)
    wanted = Path(checkpoint.load) / f"{ITERATION}{checkpoint.ckpt_step:07d}"
    why = problem(wanted) if wanted.is_dir() else "no such folder"
    if why is not None:
        raise ElasticError(f"checkpoint.ckpt_step: {wanted}: {why}")
    return wanted, []


def forget_passed(checkpoint: Any, first: bool) -> None:
    """After the start: what was passed over is set aside, and later saves are as without it. All ranks call it.

    Args:
        checkpoint: Bridge's settings of checkpoints.
        first: whether this rank renames.
    """
    step, checkpoint.ckpt_step = checkpoint.ckpt_step, None
    if step is not None and first and checkpoint.load == checkpoint.save:
        set_aside(Path(checkpoint.load), Path(checkpoint.load) / f"{ITERATION}{step:07d}")
    torch.distributed.barrier()


def go_on_from(previous: str, state: Any, model: list[Any], optimizer: Any) -> None:
    """Load weights, router, members and the optimizer's state of the stage before, and count steps from 0 again."""
    checkpoint = state.cfg.checkpoint
    own, checkpoint.load = checkpoint.load, str(Path(previous))
    try:
        with experts_shared_or_not():
            step, _ = load_checkpoint(state, model, optimizer, None)
    finally:
        checkpoint.load = own
    if step == 0:
        raise ElasticError(f"previous: {previous}: holds no step of a training")
    state.train_state = TrainState()
