# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is written down inside the jobs of a rehearsal: what each starts with, and what its members lose at its end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import save_checkpoint

from nemo_elastic.formats.megatron.metadata import ITERATION, TRACKER
from nemo_elastic.hosts.bridge.step import ElasticStep
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.rehearsal.lost import members_lose
from nemo_elastic.rehearsal.short import FROM, SEQUENCES, START


class Watch(Callback):
    """Saves what a training job starts with, before its first step, and what its members lose after the last.

    Args:
        step: of the run.
        out: folder; each start has one of its own in it, `0`, `1`, …, with `start/` (the state, as a checkpoint),
            `from/` (the checkpoint that it goes on from, where it is one of its own run) and `facts.json`.
        stop_after: the first start ends without a word after this step, all processes at once, as if it were killed;
            with exit code 0, so that what was submitted behind it starts.
    """

    def __init__(self, step: ElasticStep, out: str, stop_after: int | None = None) -> None:
        self.step, self.out, self.stop_after = step, out, stop_after

    def on_train_start(self, context: Any) -> None:
        """Behind the callback that has prepared the members."""
        folder, state = Path(self.out), context.state
        number, checkpoint = state.train_state.step, state.cfg.checkpoint
        self._here = folder / str(sum(1 for _ in folder.glob("*/facts.json")))
        torch.distributed.barrier()
        self.facts: dict[str, Any] = {"step": number, "killed": False}
        if self.step.host.first:
            self._here.mkdir(parents=True, exist_ok=True)
            if number:  # it may be gone when the job ends; a link takes no room
                own = Path(checkpoint.load, f"{ITERATION}{number:07d}")
                shutil.copytree(own, self._here / FROM / own.name, copy_function=os.link)
                (self._here / FROM / TRACKER).write_text(str(number))
        torch.distributed.barrier()
        saved = {name: getattr(checkpoint, name) for name in ("save", "save_optim", "most_recent_k")}
        checkpoint.save, checkpoint.most_recent_k = str(self._here / START), -1
        checkpoint.save_optim = number > 0 or self.step.family.stage > 1  # a new optimizer has no moments yet
        try:
            save_checkpoint(state, context.model, context.optimizer, context.scheduler, 0)
        finally:
            for name, value in saved.items():
                setattr(checkpoint, name, value)
        self._tell()

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        reached = context.state.train_state.step + 1
        if self.stop_after is not None and reached == self.stop_after and self.facts["step"] == 0:
            self.facts |= {"killed": True, "reached": reached}
            self._tell()
            torch.distributed.barrier()
            os._exit(0)

    def on_train_end(self, context: Any) -> None:
        self.facts["reached"] = context.state.train_state.step
        self.facts |= members_lose(self.step.steps, self.step.host.datasets(0, SEQUENCES, 0)[1])
        self._tell()

    def _tell(self) -> None:
        if self.step.host.first:
            atomic_write(self._here / "facts.json", json.dumps(self.facts))
