# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss of a micro-batch, distillation or cross-entropy from hidden states, and what is reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.train.training import Part

from .validation import all_ranks, from_last_stage
from .vocabulary import vocabulary_loss

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


def report_parts(parts: Sequence[Part], tokens: torch.Tensor, budgets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a micro-batch reports of its loss, without the router's.

    Args:
        parts: of `FamilyTraining.loss`.
        tokens: how many count.
        budgets: of the block.

    Returns:
        [loss sum, tokens], and the same of each budget that it drew, zeros for the others.
    """
    each = torch.zeros(budgets, 2, device=tokens.device)
    total = torch.zeros((), device=tokens.device)
    for budget, share, loss_sum in parts:
        each[budget] = torch.stack([loss_sum, tokens])
        total += share * loss_sum
    return torch.stack([total, tokens]), each


def mean_by_budget(each: torch.Tensor) -> dict[int, float]:
    """Budget index -> mean loss of those that were drawn, over data-parallel ranks; all of them call it.

    Args:
        each: sums over this rank's micro-batches of what `report_parts` gave of the budgets.
    """
    torch.distributed.all_reduce(each, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    return {i: float(s / n) for i, (s, n) in enumerate(each.tolist()) if n > 0}


def tokens_counted(totals: Sequence[torch.Tensor]) -> int:
    """Tokens that count in a step's loss, known to every rank; all of them call it.

    Args:
        totals: [loss sum, tokens] of this rank's micro-batches, as `report_parts` gives them; only the last pipeline
            stage has any.
    """
    tokens = all_ranks([t[1].double() for t in totals]) if totals else torch.zeros((), dtype=torch.float64)
    return int(from_last_stage(tokens))
