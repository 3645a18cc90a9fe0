# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal has its jobs write down, on either host: what each starts with, and what its members lose at the
end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nemo_elastic.io.write import atomic_write
from nemo_elastic.train.heldout import CE_SUM, TOKENS

from .checkpoints import on_first

if TYPE_CHECKING:
    from nemo_elastic.megatron.family_loop import FamilyLoop

#: files of a watched start: the state it began with, and the checkpoint that it was to begin with
START, FROM = "start", "from"
#: sequences on which members and their cuts are compared
SEQUENCES = 4


class Watch:
    """Saves what a training job starts with, before its first step, and what its members lose after the last.

    All ranks call each function.

    Args:
        out: folder; each start has one of its own in it, `0`, `1`, …, with `start/` (the state, as a checkpoint),
            `from/` (the checkpoint that it goes on from, where it is one of its own run) and `facts.json`.
        stop_after: the first start ends without a word after this step, all processes at once, as if it were killed;
            with exit code 0, so that the next job starts.
    """

    def __init__(self, out: str, stop_after: int | None = None) -> None:
        self.out, self.stop_after = Path(out), stop_after

    def begin(self, step: int, save: Callable[[Path], Any], keep: Callable[[Path], Any] | None) -> None:
        """A start at a step.

        Args:
            step: of the optimizer.
            save: writes the state as a checkpoint.
            keep: copies the checkpoint of its own run that it goes on from, which may be gone when the job ends.
        """

        def place() -> Path:
            here = self.out / str(sum(1 for _ in self.out.glob("*/facts.json")))
            here.mkdir(parents=True, exist_ok=True)
            if keep is not None:
                keep(here / FROM)
            return here

        self._here = on_first(place)
        self.facts: dict[str, Any] = {"step": step, "killed": False}
        save(self._here / START)
        self._tell()

    def reached(self, step: int) -> None:
        """A step is done."""
        if self.stop_after == step and self.facts["step"] == 0:
            self._tell(killed=True, reached=step)
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            os._exit(0)

    def end(self, step: int, loop: FamilyLoop, dataset: Any) -> None:
        """The last step is done; members are compared on held-out sequences by number."""
        self._tell(reached=step, **member_losses(loop, dataset))

    def _tell(self, **facts: Any) -> None:
        self.facts |= facts
        on_first(lambda: atomic_write(self._here / "facts.json", json.dumps(self.facts)))


def link(folder: Path, place: Path) -> None:
    """Keep a folder in another place; links take no room."""
    shutil.copytree(folder, place, copy_function=os.link)


def member_losses(loop: FamilyLoop, dataset: Any) -> dict[str, Any]:
    """Every member's cross-entropy in nats per token on held-out sequences, and the sequences."""
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    tokens_bl, labels_bl = dataset_tokens(dataset, SEQUENCES)
    mask_bl = torch.ones(tokens_bl.shape, device=tokens_bl.device)
    batch = {"tokens": tokens_bl, "labels": labels_bl, "loss_mask": mask_bl}
    sums = loop.sums(loop.family.members.get()[1:], [batch])
    names = [budget.name for budget in loop.family.config.budgets]
    losses = dict(zip(names, (sums[:, CE_SUM] / sums[:, TOKENS]).tolist(), strict=True))
    return {"losses": losses, "tokens": tokens_bl.tolist(), "labels": labels_bl.tolist()}
