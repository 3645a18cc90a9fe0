# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal has NeMo's jobs write down.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from typing import Any

import lightning.pytorch as pl
from nemo.lightning.io import IOMixin

from nemo_elastic.hosts.common.watch import Watch, link
from nemo_elastic.hosts.nemo.checkpoint.resume import folder_of


class NemoWatch(pl.Callback, IOMixin):
    """A `Watch` of NeMo's trainer, with its arguments."""

    def __init__(self, out: str, stop_after: int | None = None) -> None:
        self.watch = Watch(out, stop_after)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        resumed = trainer.ckpt_path
        fresh = resumed is None and pl_module.stage == 1  # a new optimizer has no moments yet
        self.watch.begin(
            trainer.global_step,
            lambda place: trainer.save_checkpoint(place, weights_only=fresh),
            None if resumed is None else lambda place: link(folder_of(str(resumed)), place),
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watch.reached(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        assert trainer.val_dataloaders is not None
        self.watch.end(trainer.global_step, pl_module.loop, trainer.val_dataloaders.dataset)
