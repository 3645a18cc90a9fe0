# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rank does with a micro-batch of a training or a validation, on every pipeline stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.nn.gates import Choice
from nemo_elastic.train.heldout import HeldOut
from nemo_elastic.train.training import Draw, FamilyTraining, Part

from .host import MegatronHost
from .loss import Output
from .streams import join

__all__ = ["FamilyStep"]


@dataclass
class FamilyStep:
    """The steps of a family's training, for whoever calls them.

    Attributes:
        family: what is trained.
        host: whoever trains it.
        heldout: of its validations.
    """

    family: FamilyTraining
    host: MegatronHost
    heldout: HeldOut

    @property
    def teaches_in_stages(self) -> bool:
        """Whether pipeline stages pass on a teacher's hidden states beside the student's, see `streams`."""
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        return stages > 1 and self.family.config.distill.taught

    @property
    def validates_in_stages(self) -> bool:
        """Whether they do so in a validation: the whole model, where it teaches, has been seen on the last stage."""
        return self.teaches_in_stages and self.host.frozen is not None

    # ------------------------------------------------------------------ training

    def pass_on(self, tokens_bs: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        """What all stages but the last pass on of a micro-batch that trains one budget."""
        (draw,) = draws
        self.family.remember(draw, tokens_bs)
        teacher = self.family.teacher_of(self.host, tokens_bs, draws)
        hidden = self.host.student(tokens_bs, draw.choice)[1]
        if not self.teaches_in_stages:
            return hidden
        return join(hidden, hidden if teacher is None else teacher[1])

    def loss(
        self, draws: Sequence[Draw], tokens_bs: torch.Tensor, labels_bs: torch.Tensor, mask_bs: torch.Tensor
    ) -> tuple[torch.Tensor, list[Part]]:
        """Loss of a micro-batch on the last stage, see `FamilyTraining.loss`."""
        return self.family.loss(self.host, draws, tokens_bs, labels_bs, mask_bs)

    # ------------------------------------------------------------------ validating

    def begin_validation(self) -> None:
        """Start one: all members run, as they are now; the whole model alone before there are any."""
        names = [b.name for b in self.family.config.budgets]
        choices: list[Choice] = [None, *self.family.members.get()[1:]]
        self.heldout.begin(names[: len(choices)], choices, taught=self.host.frozen is not None)

    def pass_on_member(self, batch: dict[str, Any]) -> torch.Tensor:
        """What all stages but the last pass on for a member; the teacher runs beside the first one."""
        tokens = batch["tokens"]
        hidden = self.host.student(tokens, batch["choice"])[1]
        if not self.validates_in_stages:
            return hidden
        return join(hidden, self.host.teacher(tokens)[1] if batch["member"] == 0 else hidden)

    def measure(self, batch: dict[str, Any]) -> torch.Tensor:
        """Sums of a member's losses over a micro-batch on the last stage, see `HeldOut.measure`."""
        tokens = batch["tokens"]

        def teach() -> Output | None:
            return None if self.host.frozen is None else self.host.teacher(tokens)

        return self.heldout.measure(self.host, batch, self.host.student(tokens, batch["choice"]), teach)
