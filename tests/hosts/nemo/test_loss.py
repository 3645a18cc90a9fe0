# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of a micro-batch in every mode, and what NeMo and megatron-core make of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Parent

pytestmark = pytest.mark.nemo
PARENT = Parent("M-", 12, 16, 16, 4, 4, 2, 4, 4, 4, 2, 4, ffn_stripes=2)


def models() -> list[Any]:
    from tests.support.models import build, start

    start()
    return [build(PARENT, elastic=False, seed=seed) for seed in range(2)]


def batch(size: int = 3) -> dict[str, torch.Tensor]:
    """Weights that are no mask of zeros and ones, so that one applied twice would show."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(PARENT.vocab, (size, 5), generator=g)
    return {"labels": labels, "loss_mask": torch.rand(size, 5, generator=g) * (labels % 4 > 0)}


def hidden(size: int = 3) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(5, size, PARENT.hidden, generator=g) for _ in range(2)]


def expected(
    config: DistillConfig,
    student: Any,
    x_sbd: torch.Tensor,
    teacher: Any,
    y_sbd: torch.Tensor,
    labels_bs: torch.Tensor,
) -> torch.Tensor:
    """Loss of every token [b, s], from whole logits."""
    s_bsv, t_bsv = (
        F.linear(h, m.output_layer.weight).transpose(0, 1) for m, h in ((student, x_sbd), (teacher, y_sbd))
    )
    ce_bs = F.cross_entropy(s_bsv.transpose(1, 2), labels_bs, reduction="none")
    if not config.taught:
        return ce_bs
    log_q, log_p = (F.log_softmax(z / config.temperature, -1) for z in (s_bsv, t_bsv))
    kl_bs = (log_p.exp() * (log_p - log_q)).sum(-1)
    return kl_bs + config.of(taught=True).get("ce", 0.0) * ce_bs


def test_top_k_is_the_heads_option() -> None:
    from nemo_elastic.megatron.vocabulary import distill_loss
    from nemo_elastic.nn.loss_head import Head, head_loss

    (student, teacher), (x_sbd, y_sbd), data = models(), hidden(), batch()
    given = ((student, x_sbd), (teacher, y_sbd), data["labels"], data["loss_mask"])
    loss, _ = distill_loss(DistillConfig(top_k=2), *given)
    own, theirs = (Head(h.flatten(0, 1), m.output_layer.weight) for m, h in ((student, x_sbd), (teacher, y_sbd)))
    labels_t, weights_t = (data[name].t().reshape(-1) for name in ("labels", "loss_mask"))
    alone, _ = head_loss(own, theirs, labels_t=labels_t, weights_t=weights_t, top_k=2)
    assert float(loss) == float(alone) < float(distill_loss(DistillConfig(), *given)[0])


def scheduled(reduction: Any, loss: torch.Tensor, data: dict[str, Any], micro_batches: int) -> tuple[Any, list[Any]]:
    """What megatron-core's schedule makes of one micro-batch's loss."""
    from functools import partial

    from megatron.core.pipeline_parallel.schedules import forward_step_calc_loss

    reports: list[Any] = []
    config = SimpleNamespace(calculate_per_token_loss=False, timers=None)
    out, _ = forward_step_calc_loss(
        torch.nn.Module(), loss, partial(reduction.forward, data), config, None, False, micro_batches, reports
    )
    return out, reports


def test_megatron_divides_it_as_a_loss_per_token_that_nemo_masks() -> None:
    """Value, report and gradient are those of NeMo's own reduction of the same loss per token."""
    from nemo.lightning.megatron_parallel import MaskedTokenLossReduction

    from nemo_elastic.hosts.nemo.model import ElasticLossReduction
    from nemo_elastic.megatron.vocabulary import distill_loss
    from nemo_elastic.train.training import Ran

    (student, teacher), (x_sbd, y_sbd), data = models(), hidden(), batch()
    config, weight = DistillConfig(), student.output_layer.weight
    want_bs = expected(config, student, x_sbd, teacher, y_sbd, data["labels"])
    want, want_report = scheduled(MaskedTokenLossReduction(), want_bs, data, 4)
    loss, _ = distill_loss(config, (student, x_sbd), (teacher, y_sbd), data["labels"], data["loss_mask"])
    counted = data["loss_mask"].sum().to(torch.int)
    ours = data | {"elastic": [Ran(0, 1, loss.detach().clone())], "counted": counted}
    got, report = scheduled(ElasticLossReduction(3), loss, ours, 4)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(report[0]["loss_sum_and_ub_size"], want_report[0]["loss_sum_and_ub_size"].float())
    assert report[0]["by_budget"][1].tolist() == report[0]["loss_sum_and_ub_size"].tolist()
    assert not report[0]["by_budget"][[0, 2]].any()
    torch.testing.assert_close(
        torch.autograd.grad(got, weight), torch.autograd.grad(want, weight), rtol=1e-5, atol=1e-7
    )
