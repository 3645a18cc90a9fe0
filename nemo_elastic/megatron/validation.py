# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sums of a validation, of all ranks of a megatron-core run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from megatron.core import parallel_state


def all_ranks(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of what micro-batches gave, over data-parallel ranks too; all of them call it."""
    sums = torch.stack(list(rows)).sum(0)
    torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    return sums


def from_last_stage(t: torch.Tensor) -> torch.Tensor:
    """A tensor as the last pipeline stage has it, on all stages."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        t = t.to(torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
        torch.distributed.broadcast(
            t,
            parallel_state.get_pipeline_model_parallel_last_rank(),
            parallel_state.get_pipeline_model_parallel_group(),
        )
    return t


def losses_of_last_stage(by_budget: Mapping[int, float], budgets: int) -> dict[int, float]:
    """Budget index -> mean loss of the last step, on every rank: only the last pipeline stage has seen them."""
    seen = torch.zeros(budgets, 2, dtype=torch.float64)
    for i, loss in by_budget.items():
        seen[i] = torch.tensor([1.0, loss], dtype=torch.float64)
    return {i: loss for i, (drawn, loss) in enumerate(from_last_stage(seen).tolist()) if drawn}
