# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What training a family asks of whoever trains: NeMo, another framework, or some lines of plain torch.

A host owns the model, the data, the optimizer and the ranks. It calls `FamilyTraining` for each micro-batch, `shaping`
before the first step and when shapes are due, `HeldOut` in a validation and `Guard` before the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Choice
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import Ranking
from nemo_elastic.ranking.scores import Layered, Shards

#: what a forward pass gives for `Host.loss`: the host's own business, logits or hidden states with their head
Output = Any


class Host(Protocol):
    """One model in training, and the ranks that share its work.

    Ranks that hold one model together, or copies of it, all call the same methods in the same order. Where a block has
    `distill.quantize`, what `student` runs are weights as `nn.low_precision.rounded_state` makes them, as they are at
    that step.
    """

    # ------------------------------------------------------------------ a micro-batch

    def student(self, tokens_bs: torch.Tensor | None, choice: Choice, documents: Documents | None = None) -> Output:
        """Run the model forward as a choice says: whole, as a member, or under gates.

        Args:
            tokens_bs: token ids; None where a pipeline stage gets none.
            documents: where rows hold several that are kept apart: no layer reads over their bounds.
        """
        ...

    def teacher(self, tokens_bs: torch.Tensor | None, documents: Documents | None = None) -> Output:
        """Run the teacher without gradients: the frozen one, or the whole student if there is none."""
        ...

    def loss(
        self,
        distill: DistillConfig,
        student: Output,
        teacher: Output | None,
        labels_bs: torch.Tensor,
        weights_bs: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss that a block's `distill` says: `distill.of` gives the terms with a teacher, or without one.

        Args:
            distill: its terms, and how they are computed.
            weights_bs: of every token: the loss mask; None for 1.

        Returns:
            The sum of weight x loss over tokens, differentiable, and the loss of every token [b, s], which is not.
        """
        ...

    # ------------------------------------------------------------------ shapes

    @property
    def micro_batch_size(self) -> int:
        """Sequences of a micro-batch."""
        ...

    @property
    def seq_length(self) -> int:
        """Tokens of a sequence."""
        ...

    def sequences(self, count: int, size: int) -> Iterator[Rows]:
        """This rank's share of the first `count` training sequences, in micro-batches of up to `size`.

        As training reads them: of the same loss mask, and of documents that are apart in the same rows.
        """
        ...

    def layers(self) -> Layered:
        """The whole model taken apart, for the ranking."""
        ...

    def shards(self) -> Shards | None:
        """The ranks that hold the model together; None where each holds it whole."""
        ...

    def sort(self, ranking: Ranking) -> None:
        """Permute the weights in place so that every member is a blocked prefix."""
        ...

    def weights_changed(self) -> None:
        """Let optimizers that hold copies of the weights read them again."""
        ...

    def evaluating(self) -> AbstractContextManager[Any]:
        """Eval mode and no gradients while it lasts."""
        ...

    # ------------------------------------------------------------------ ranks

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        ...

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        ...

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step on each rank."""
        ...

    def sum_over_data_ranks(self, t: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks that see other data, the same bits on all ranks of the run."""
        ...

    def positive_on_any_rank(self, here: torch.Tensor) -> list[bool]:
        """Of each of some numbers [n], whether it is above zero on any rank of the run."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank of the run, in their order."""
        ...

    # ------------------------------------------------------------------ looking for what is not finite

    def gradient(self, parameter: Any) -> torch.Tensor:
        """A parameter's reduced gradient, wherever the host keeps it; zero where it has none."""
        ...

    def whole_name(self, name: str) -> str:
        """A parameter's name as the whole model has it."""
        ...
