# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss of a micro-batch: per-token distillation or cross-entropy, and its reduction over micro-batches and ranks."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from nemo.lightning.megatron_parallel import MaskedTokenLossReduction

from nemo_elastic.config import DistillConfig
from nemo_elastic.nn.kl import forward_kl


def token_loss(
    config: DistillConfig,
    student_bsv: torch.Tensor,
    teacher_bsv: torch.Tensor | None,
    labels_bs: torch.Tensor,
) -> torch.Tensor:
    """Loss per token [b, s]: forward KL(teacher || student), cross-entropy, or KL + alpha x cross-entropy.

    Args:
        config: the elastic block's distill section.
        student_bsv: student logits, vocabulary shard of this rank.
        teacher_bsv: teacher logits, same shard; None makes the loss cross-entropy.
        labels_bs: target token ids.
    """
    group = None
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        group = parallel_state.get_tensor_model_parallel_group()
    loss = None
    if teacher_bsv is not None:
        vocab = student_bsv.shape[-1]
        loss = forward_kl(
            student_bsv.reshape(-1, vocab),
            teacher_bsv.reshape(-1, vocab),
            temperature=config.temperature,
            chunk_tokens=config.chunk_tokens,
            group=group,
        ).view(labels_bs.shape)
    if teacher_bsv is None or config.mode == "frozen_ce":
        # megatron-core takes views of what it is given, so tokens first must be tokens first in memory; it computes in
        # float32
        student_sbv, labels_sb = (x.transpose(0, 1).contiguous() for x in (student_bsv, labels_bs))
        ce = vocab_parallel_cross_entropy(student_sbv, labels_sb).transpose(0, 1).contiguous()
        loss = ce if loss is None else loss + config.alpha * ce
    assert loss is not None
    return loss


class ElasticLossReduction(MaskedTokenLossReduction):
    """NeMo's token-weighted mean, plus the router's budget loss, plus the mean of each budget for the log.

    A micro-batch's loss is a sum that megatron-core divides by the tokens of the step: the budget loss enters with the
    micro-batch's token count as its weight. `by_budget` holds budget index -> mean loss of the last step.
    """

    def __init__(self, budgets: int) -> None:
        super().__init__()
        self.budgets = budgets
        self.by_budget: dict[int, float] = {}

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:
        """batch["elastic"] holds the budget index and the router's loss of this micro-batch, see model.py."""
        loss_sum, tokens, report = super().forward(batch, forward_out)
        info = batch["elastic"]
        each = torch.zeros(self.budgets, 2, device=loss_sum.device)
        each[info["budget"]] = report["loss_sum_and_ub_size"].float()
        report = report | {"by_budget": each}
        if info["router_loss"] is not None:
            loss_sum = loss_sum + info["router_loss"].float() * tokens
        return loss_sum, tokens, report

    def reduce(self, losses_reduced_per_micro_batch: Any) -> torch.Tensor:
        if losses_reduced_per_micro_batch:
            each = torch.stack([x["by_budget"] for x in losses_reduced_per_micro_batch]).sum(0)
            group = parallel_state.get_data_parallel_group(with_context_parallel=True)
            torch.distributed.all_reduce(each, group=group)
            self.by_budget = {i: float(s / n) for i, (s, n) in enumerate(each.tolist()) if n > 0}
        return super().reduce(losses_reduced_per_micro_batch)
