# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The loss per token in every mode, against torch's own functions, for batches of several sequences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.config import DistillConfig

pytestmark = pytest.mark.nemo


@pytest.mark.parametrize("mode", ["frozen", "frozen_ce", "ce"])
@pytest.mark.parametrize("batch", [1, 3])
def test_values_and_gradients(mode, batch):
    from benchmarks.models import start
    from nemo_elastic.nemo.loss import token_loss

    start()
    random = torch.Generator().manual_seed(0)
    student_bsv = torch.randn(batch, 5, 16, generator=random, requires_grad=True)
    teacher_bsv = torch.randn(batch, 5, 16, generator=random) if mode != "ce" else None
    labels_bs = torch.randint(16, (batch, 5), generator=random)
    config = DistillConfig(mode=mode, temperature=2.0, alpha=0.25, chunk_tokens=4)
    expected_bs = torch.zeros(batch, 5)
    if teacher_bsv is not None:
        log_p, log_q = F.log_softmax(teacher_bsv / 2, -1), F.log_softmax(student_bsv / 2, -1)
        expected_bs = expected_bs + (log_p.exp() * (log_p - log_q)).sum(-1)
    if mode != "frozen":
        weight = 1.0 if mode == "ce" else 0.25
        expected_bs = expected_bs + weight * F.cross_entropy(student_bsv.transpose(1, 2), labels_bs, reduction="none")
    got_bs = token_loss(config, student_bsv, teacher_bsv, labels_bs)
    torch.testing.assert_close(got_bs, expected_bs, rtol=1e-5, atol=1e-6)
    assert got_bs.view(-1).numel() == 5 * batch  # what NeMo does with it
    weights_bs = torch.rand(batch, 5, generator=random)
    (want,) = torch.autograd.grad((expected_bs * weights_bs).sum(), student_bsv)
    (got,) = torch.autograd.grad((got_bs * weights_bs).sum(), student_bsv)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["frozen", "frozen_ce", "ce"])
@pytest.mark.parametrize("batch", [1, 3])
def test_bf16_logits_lose_nothing_but_the_rounding_of_their_gradient(mode, batch):
    """The loss is bit for bit that of the same logits in float32; the gradient is rounded twice to 8 bits."""
    from benchmarks.models import start
    from nemo_elastic.nemo.loss import token_loss

    start()
    random = torch.Generator().manual_seed(0)
    student_bsv = torch.randn(batch, 50, 128, generator=random).bfloat16().requires_grad_()
    teacher_bsv = torch.randn(batch, 50, 128, generator=random).bfloat16() if mode != "ce" else None
    before_bsv = student_bsv.detach().clone()
    labels_bs = torch.randint(128, (batch, 50), generator=random)
    config = DistillConfig(mode=mode, chunk_tokens=16)
    got_bs = token_loss(config, student_bsv, teacher_bsv, labels_bs)
    assert torch.equal(student_bsv, before_bsv)
    wide_bsv = student_bsv.detach().float().requires_grad_()
    want_bs = token_loss(config, wide_bsv.clone(), teacher_bsv, labels_bs)
    assert got_bs.dtype == torch.float32
    assert torch.equal(got_bs, want_bs)
    weights_bs = torch.full((batch, 50), 1 / 150)  # what dividing by the tokens of a step makes of a loss's gradient
    (got,) = torch.autograd.grad((got_bs * weights_bs).sum(), student_bsv)
    (want,) = torch.autograd.grad((want_bs * weights_bs).sum(), wide_bsv)
    assert got.dtype == torch.bfloat16
    # twice half of bf16's last place; where two losses are added, parts that cancel are rounded before
    torch.testing.assert_close(got.float(), want, rtol=2**-7, atol=0.0 if mode != "frozen_ce" else 2e-5)
    assert float(got.float().abs().sum() / want.abs().sum()) == pytest.approx(1, abs=2e-4)  # no bias
