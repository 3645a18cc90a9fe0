# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a run in addition to its recipe and its elastic block: the stage, and the checkpoints it starts from.

No host here: a run's file is read, and refused, without it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad


@dataclass(kw_only=True)
class StageOptions:
    """The arguments that `apply_elastic`, `ElasticPlugin`, `nemo elastic train` and a run's file share.

    Attributes:
        teacher: checkpoint of the parent, or the folder of its training, whose newest whole one is taken; the frozen
            teacher, and what stage 1 starts from.
        stage: 1 or 2 of the curriculum, or 3: another on the shapes that stage 1 froze, as with `distill.quantize`.
        previous: stages 2 and 3: checkpoint at the end of the one before, whose weights, members and optimizer
            go on; on NeMo also the folder of its training.
        total_steps: steps of all stages, over which the learning rate falls; if not given those of this one and of the
            stages before.
        out: folder for ranking and shapes; `elastic` in the log directory if not given.
        mock_data: allow a recipe whose data are random tokens, e.g. to time steps.
    """

    teacher: str | None = None
    stage: int = 1
    previous: str | None = None
    total_steps: int | None = None
    out: str | None = None
    mock_data: bool = False

    def total(self, steps: int) -> int:
        """Steps of all stages, as far as they are known before a recipe of so many starts; see `Rates.after`."""
        return self.total_steps or steps

    def check(self, config: ElasticConfig, steps: Any, name: str, checkpoint: str = "checkpoint") -> None:
        """Hold them against each other, the block, and the steps of the recipe, in its field `name`.

        `checkpoint` is what the host calls one of its own.
        """
        total = self.total_steps
        config.check_stage(self.stage)
        if self.stage > 1 and self.previous is None:
            raise bad(
                "previous", self.previous, f"stage {self.stage} starts from a checkpoint of stage {self.stage - 1}"
            )
        if self.stage == 1 and self.previous is not None:
            raise bad("previous", self.previous, "nothing: stage 1 starts from the teacher")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            allowed = "at least 1: cuts, schedules and the freeze are laid out over the steps"
            raise bad(f"recipe.{name}", steps, allowed)
        if total is not None and (not isinstance(total, int) or total < steps):
            raise bad("total_steps", total, f"at least {name} = {steps}")
        if config.distill.teacher == "frozen" and self.teacher is None:
            allowed = f"the parent's {checkpoint} (teacher=PATH): elastic.distill.teacher is frozen"
            raise bad("teacher", self.teacher, allowed)
        if not isinstance(self.mock_data, bool):
            raise bad("mock_data", self.mock_data, "true or false")

    def check_mock(self, where: str, made: str, instead: str) -> None:
        """Raise for random tokens that nobody asked for: stock recipes have them so that they run at all.

        Args:
            where, made: the recipe's field, and what makes them.
            instead: how the host's recipes name text.
        """
        if not self.mock_data:
            why = "random tokens rank, shape and train nothing; mock_data=true allows random tokens"
            raise bad(where, made, f"{instead}: {why}")


#: their names
STAGE_OPTIONS = tuple(f.name for f in fields(StageOptions))
