# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss of a micro-batch: distillation or cross-entropy from hidden states, and its reduction over micro-batches."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from nemo.lightning.megatron_parallel import MaskedTokenLossReduction

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.megatron.vocabulary import vocabulary_loss

#: a megatron-core MambaModel and its hidden states [s, b, d]
Output = tuple[Any, torch.Tensor]


def distill_loss(
    config: DistillConfig,
    student: Output,
    teacher: Output | None,
    labels_bs: torch.Tensor,
    weights_bs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms of the block's loss, of a micro-batch.

    Args:
        config: the elastic block's distill section.
        student, teacher: models and their hidden states (`megatron.vocabulary`); without a teacher the terms that need
            none.
        labels_bs: target token ids.
        weights_bs: weight of every token: the loss mask.

    Returns:
        The sum of weight x loss over tokens, differentiable, and the loss of every token [b, s], which is not.
    """
    return vocabulary_loss(
        student,
        teacher,
        labels_bs,
        weights_bs,
        terms=config.of(teacher is not None),
        temperature=config.temperature,
        top_k=config.top_k,
        chunk_tokens=config.chunk_tokens,
    )


class ElasticLossReduction(MaskedTokenLossReduction):
    """NeMo's token-weighted mean, without the router's budget loss, and the mean of each budget for the log.

    `by_budget` holds budget index -> mean loss of the last step.
    """

    def __init__(self, budgets: int) -> None:
        super().__init__()
        self.budgets = budgets
        self.by_budget: dict[int, float] = {}

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:
        """(loss sum, tokens, report), as NeMo's own gives it for a loss per token.

        Args:
            batch: has the loss mask, and in "elastic" (index, share, loss sum) of each budget, see model.py.
            forward_out: the micro-batch's loss with the router's, already weighted by the mask and summed over tokens.
        """
        tokens = batch["loss_mask"].sum().to(torch.int)
        each = torch.zeros(self.budgets, 2, device=forward_out.device)
        total = torch.zeros((), device=forward_out.device)
        for budget, share, loss_sum in batch["elastic"]:
            each[budget] = torch.stack([loss_sum, tokens])
            total += share * loss_sum
        report = {"loss_sum_and_ub_size": torch.stack([total, tokens]), "by_budget": each}
        return forward_out, tokens, report

    def reduce(self, losses_reduced_per_micro_batch: Any) -> torch.Tensor:
        if losses_reduced_per_micro_batch:
            each = torch.stack([x["by_budget"] for x in losses_reduced_per_micro_batch]).sum(0)
            group = parallel_state.get_data_parallel_group(with_context_parallel=True)
            torch.distributed.all_reduce(each, group=group)
            self.by_budget = {i: float(s / n) for i, (s, n) in enumerate(each.tolist()) if n > 0}
        return super().reduce(losses_reduced_per_micro_batch)
