# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is written down inside the jobs of a rehearsal: what each starts with, and what its members lose at its end.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from nemo.lightning import io

from nemo_elastic.hosts.nemo.checkpoint.resume import folder_of
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.rehearsal.lost import members_lose
from nemo_elastic.rehearsal.short import FROM, START


class Watch(pl.Callback, io.IOMixin):
    """Saves what a training job starts with, before its first step, and what its members lose after the last.

    Args:
        out: folder; each start has one of its own in it, `0`, `1`, …, with `start/` (the state, as a checkpoint),
            `from/` (the checkpoint that it goes on from, where it is one of its own run) and `facts.json`.
        stop_after: the first start ends without a word after this step, all processes at once, as if it were killed;
            with exit code 0, so that what was submitted behind it starts.
    """

    def __init__(self, out: str, stop_after: int | None = None) -> None:
        self.out, self.stop_after = out, stop_after

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        folder, first = Path(self.out), trainer.is_global_zero
        self._here = folder / str(sum(1 for _ in folder.glob("*/facts.json")))
        trainer.strategy.barrier()
        self.facts = {"step": trainer.global_step, "killed": False}
        if first:
            self._here.mkdir(parents=True, exist_ok=True)
            if trainer.ckpt_path:  # it may be gone when the job ends; a link takes no room
                shutil.copytree(folder_of(str(trainer.ckpt_path)), self._here / FROM, copy_function=os.link)
        fresh = trainer.ckpt_path is None and getattr(pl_module, "stage", 1) == 1
        trainer.save_checkpoint(self._here / START, weights_only=fresh)  # a new optimizer has no moments yet
        self._tell(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if self.stop_after is not None and trainer.global_step == self.stop_after and self.facts["step"] == 0:
            self.facts |= {"killed": True, "reached": trainer.global_step}
            self._tell(trainer)
            trainer.strategy.barrier()
            os._exit(0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.facts["reached"] = trainer.global_step
        if isinstance(pl_module, ElasticMambaModel):
            assert trainer.val_dataloaders is not None
            self.facts |= members_lose(pl_module.steps, trainer.val_dataloaders.dataset)
        self._tell(trainer)

    def _tell(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            atomic_write(self._here / "facts.json", json.dumps(self.facts))
