# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal has Megatron-Bridge's jobs write down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import save_checkpoint

from nemo_elastic.formats.megatron.metadata import ITERATION, TRACKER
from nemo_elastic.hosts.common.watch import SEQUENCES, Watch, link

from .step import ElasticStep


class BridgeWatch(Watch, Callback):
    """A `Watch` of Bridge's loop, called after the callback that prepares the members.

    Args:
        step: of the run.
        out, stop_after: see `Watch`.
    """

    def __init__(self, step: ElasticStep, out: str, stop_after: int | None = None) -> None:
        super().__init__(out, stop_after)
        self.step = step

    def on_train_start(self, context: Any) -> None:
        state, checkpoint = context.state, context.state.cfg.checkpoint
        number = state.train_state.step

        def save(place: Path) -> None:
            # a new optimizer has no moments yet
            changed = {"save": str(place), "most_recent_k": -1, "save_optim": number > 0 or self.step.family.stage > 1}
            before = {name: getattr(checkpoint, name) for name in changed}
            vars(checkpoint).update(changed)
            try:
                save_checkpoint(state, context.model, context.optimizer, context.scheduler, 0)
            finally:
                vars(checkpoint).update(before)

        def keep(place: Path) -> None:
            iteration = Path(checkpoint.load, f"{ITERATION}{number:07d}")
            link(iteration, place / iteration.name)
            (place / TRACKER).write_text(str(number))

        self.begin(number, save, keep if number else None)

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        self.reached(context.state.train_state.step + 1)

    def on_train_end(self, context: Any) -> None:
        self.end(context.state.train_state.step, self.step.loop, self.step.host.datasets(0, SEQUENCES, 0)[1])
