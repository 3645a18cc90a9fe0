# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of every member.

Every micro-batch of validation data runs once for every member, as consecutive micro-batches. A pipeline schedule
needs no change for this, as each pipeline rank counts them. No budget is sampled and no random number is taken. Ranks
that read shares of the data add their sums up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.nn.gates import Choice

from .seam import Host, Output

#: log names of a member's cross-entropy and its divergence from the teacher, in nats per token
LOSS, KL = "val_loss/{}", "val_kl/{}"
#: of the sums of a member
CE_SUM, KL_SUM, TOKENS = range(3)


@dataclass(frozen=True)
class HeldOutLosses:
    """A validation's losses in nats per token, by member; those that did not run are absent.

    Attributes:
        losses: cross-entropy.
        kl: divergence from the frozen teacher, or else from the whole model as it is now, which then has none itself.
    """

    losses: dict[str, float] = field(default_factory=dict)
    kl: dict[str, float] = field(default_factory=dict)

    def logged(self) -> dict[str, float]:
        """By the names of `LOSS` and `KL`."""
        return {LOSS.format(n): v for n, v in self.losses.items()} | {KL.format(n): v for n, v in self.kl.items()}


class HeldOut:
    """Which member a micro-batch of a validation runs, and the sums of all losses.

    Args:
        distill: the elastic block's section, for the size of its chunks; losses are at temperature 1, over all tokens.
    """

    def __init__(self, distill: DistillConfig) -> None:
        chunks = distill.chunk_tokens
        self._ce, self._kl = DistillConfig(teacher="none", chunk_tokens=chunks), DistillConfig(chunk_tokens=chunks)
        self.measured = HeldOutLosses()
        self.begin([""], [None])

    def begin(self, names: Sequence[str], choices: Sequence[Choice], has_teacher: bool = False) -> None:
        """Start a validation.

        Args:
            names: of the members, the whole model's first.
            has_teacher: whether the full model has a teacher.
        """
        self.names, self.choices, self.has_teacher = list(names), list(choices), has_teacher
        self._turn, self._batch, self._teacher = 0, {}, None
        self.sums = torch.zeros(len(self.names), 3, dtype=torch.float64)

    def next(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The next micro-batch: the last data that was read for the next member, or new data for the first.

        What `read` gives has `tokens`, `labels` and `loss_mask`; added are the index of the `member` and its `choice`.
        """
        member = self._turn % len(self.choices)
        self._turn += 1
        if member == 0:
            self._batch = read()
        return {**self._batch, "member": member, "choice": self.choices[member]}

    def measure(
        self, host: Host, batch: dict[str, Any], student: Output, teach: Callable[[], Output | None]
    ) -> torch.Tensor:
        """Sums [3] over a micro-batch: cross-entropy, divergence, tokens.

        Args:
            teach: gives the teacher's output, None where the whole model is the teacher; asked once per batch of data.
        """
        labels, mask = batch["labels"], batch["loss_mask"]
        if batch["member"] == 0:
            output = teach()
            self._teacher = student if output is None else output
        ce, _ = host.loss(self._ce, student, None, labels, mask)
        kl = torch.zeros_like(ce)
        if self._teacher is not None and self._teacher is not student:
            kl, _ = host.loss(self._kl, student, self._teacher, labels, mask)
        return torch.stack([ce.double(), kl.double(), mask.sum().double()])

    def row(self, batch: dict[str, Any], sums: torch.Tensor) -> torch.Tensor:
        """Sums [3] of `measure` in their member's row of zeros [members, 3]."""
        rows = sums.new_zeros(len(self.names), 3)
        rows[batch["member"]] = sums
        return rows

    def add(self, sums: torch.Tensor) -> None:
        """Add sums [members, 3] of some micro-batches, of all ranks together."""
        self.sums = self.sums.to(sums.device) + sums

    def end(self, sums: torch.Tensor | None = None) -> HeldOutLosses:
        """Losses of the validation; `sums`: those of a rank that has them all, instead of this rank's."""
        self._batch, self._teacher = {}, None
        rows = (self.sums if sums is None else sums).tolist()
        ran = {name: row for name, row in zip(self.names, rows, strict=True) if row[TOKENS]}
        with_kl = [name for name in ran if self.has_teacher or name != self.names[0]]
        self.measured = HeldOutLosses(
            {name: row[CE_SUM] / row[TOKENS] for name, row in ran.items()},
            {name: ran[name][KL_SUM] / ran[name][TOKENS] for name in with_kl},
        )
        return self.measured
