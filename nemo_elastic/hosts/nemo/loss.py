# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of a micro-batch as NeMo takes it, and its reduction over micro-batches."""

from __future__ import annotations

from typing import Any

import torch
from nemo.lightning.megatron_parallel import MaskedTokenLossReduction

from nemo_elastic.megatron.reports import mean_by_budget, report_parts


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
        total, each = report_parts(batch["elastic"], tokens, self.budgets)
        report = {"loss_sum_and_ub_size": total, "by_budget": each}
        return forward_out, tokens, report

    def reduce(self, losses_reduced_per_micro_batch: Any) -> torch.Tensor:
        if losses_reduced_per_micro_batch:
            self.by_budget = mean_by_budget(
                torch.stack([x["by_budget"] for x in losses_reduced_per_micro_batch]).sum(0)
            )
        return super().reduce(losses_reduced_per_micro_batch)
