# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What ranks report of losses, and the sums of it over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from megatron.core import parallel_state

from nemo_elastic.train.training import Part


def report_parts(parts: Sequence[Part], tokens: torch.Tensor, budgets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a micro-batch reports of its loss, without the router's.

    Args:
        parts: of `FamilyTraining.loss`.
        tokens: how many count.
        budgets: of the block.

    Returns:
        [loss sum, tokens], and the same of each budget that it sampled, zeros for the others.
    """
    each = torch.zeros(budgets, 2, device=tokens.device)
    total = torch.zeros((), device=tokens.device)
    for budget, share, loss_sum in parts:
        each[budget] = torch.stack([loss_sum, tokens])
        total += share * loss_sum
    return torch.stack([total, tokens]), each


def mean_by_budget(each: torch.Tensor) -> dict[int, float]:
    """Budget index -> mean loss of those that were sampled, over data-parallel ranks; all of them call it.

    Args:
        each: sums over this rank's micro-batches of what `report_parts` gave of the budgets.
    """
    torch.distributed.all_reduce(each, group=parallel_state.get_data_parallel_group())
    return {i: float(s / n) for i, (s, n) in enumerate(each.tolist()) if n > 0}


def tokens_counted(totals: Sequence[torch.Tensor]) -> int:
    """Tokens that count in a step's loss, known to every rank; all of them call it.

    Args:
        totals: [loss sum, tokens] of this rank's micro-batches, as `report_parts` gives them; only the last pipeline
            rank has any.
    """
    tokens = all_ranks([t[1].double() for t in totals]) if totals else torch.zeros((), dtype=torch.float64)
    return int(from_last_rank(tokens))


def all_ranks(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of what micro-batches gave, over data-parallel ranks too; all of them call it."""
    sums = torch.stack(list(rows)).sum(0)
    torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    return sums


def from_last_rank(t: torch.Tensor) -> torch.Tensor:
    """A tensor as the last pipeline rank has it, on all ranks."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        t = t.to(torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
        torch.distributed.broadcast(
            t,
            parallel_state.get_pipeline_model_parallel_last_rank(),
            parallel_state.get_pipeline_model_parallel_group(),
        )
    return t


def losses_of_last_rank(by_budget: Mapping[int, float], budgets: int) -> dict[int, float]:
    """Budget index -> mean loss of the last step, on every rank: only the last pipeline rank has seen them."""
    seen = torch.zeros(budgets, 2, dtype=torch.float64)
    for i, loss in by_budget.items():
        seen[i] = torch.tensor([1.0, loss], dtype=torch.float64)
    return {i: loss for i, (sampled, loss) in enumerate(from_last_rank(seen).tolist()) if sampled}
