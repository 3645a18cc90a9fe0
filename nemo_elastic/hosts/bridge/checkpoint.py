# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a run on Megatron-Bridge starts from: its own last checkpoint, or what the stage before it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.bridge.training.checkpointing import load_checkpoint
from megatron.bridge.training.state import TrainState

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.megatron.context import read_context
from nemo_elastic.formats.megatron.harmless import check_harmless
from nemo_elastic.formats.megatron.stored import last_iteration
from nemo_elastic.train.resume import check_same_family, may_change

__all__ = ["check_start", "go_on_from"]


def check_start(checkpoint: Any, config: ElasticConfig, stage: int, previous: str | None, first: bool) -> None:
    """Look at what a run is going to load, before it is loaded, and compare its block with the run's.

    Args:
        checkpoint: Bridge's settings of checkpoints.
        config: the elastic block.
        stage: 1 or 2.
        previous: what stage 2 goes on from.
        first: whether this rank prints.

    Raises:
        ElasticError: it is damaged, may run something, or belongs to another family.
    """
    own = last_iteration(checkpoint.load)
    start = own or last_iteration(previous or checkpoint.pretrained_checkpoint)
    if start is None:
        if previous is not None:
            raise bad("previous", previous, "a folder with a checkpoint of Megatron-Bridge's")
        return
    check_harmless(start, only_weights=True)
    before = read_context(start).elastic
    if before is None and own is None and stage == 1:
        return  # a parent as it was: ranked in this run
    changes = check_same_family(before, config.to_dict(), start, may_change(stage, resumed=own is not None))
    for line in changes if first else ():
        print(f"  resume: {line}", flush=True)


def go_on_from(previous: str, state: Any, model: list[Any], optimizer: Any) -> None:
    """Load weights, router, members and the optimizer's state of the stage before, and count steps from 0 again."""
    checkpoint = state.cfg.checkpoint
    own, checkpoint.load = checkpoint.load, str(Path(previous))
    try:
        step, _ = load_checkpoint(state, model, optimizer, None)
    finally:
        checkpoint.load = own
    if step == 0:
        raise ElasticError(f"previous: {previous}: holds no step of a training")
    state.train_state = TrainState()
