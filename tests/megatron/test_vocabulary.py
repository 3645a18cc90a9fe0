# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of the head from hidden states: against logits, in every width, and in DDP's buffers.

On ranks: `test_ranks.py`, and every term of it in `tests/nn/test_loss_head.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.config.sections import DistillConfig

from .models import build, distributed, leaves, randomise, softened, start, weights_of
from .test_ranks import MEMBER, PARENT

pytestmark = pytest.mark.nemo
#: what runs, made anew: gates keep their gradients
CHOICES = {"whole": lambda: None, "sliced": lambda: MEMBER, "soft": lambda: softened(PARENT, MEMBER)}
HOW: dict[str, Any] = {"temperature": 1.5, "terms": {"kl": 1.0, "ce": 0.4}}


def batch() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, PARENT.vocab, (2, 8), generator=g) for _ in range(2))
    return {"tokens": tokens, "labels": labels, "mask": torch.rand(2, 8, generator=g) * (labels % 3 > 0)}


def from_hidden(model: Any, teacher: Any, tokens: Any, labels: Any, mask: Any, **how: Any) -> Any:
    from nemo_elastic.megatron.vocabulary import distill_loss, hidden_states

    with torch.no_grad():
        taught = (teacher, hidden_states(teacher, tokens))
    config = DistillConfig(chunk_tokens=5, **how)
    return distill_loss(config, (model, hidden_states(model, tokens)), taught, labels, mask)


def from_logits(model: Any, teacher: Any, tokens: Any, labels: Any, mask: Any, temperature: float, terms: Any) -> Any:
    student = model(tokens, None, None)
    with torch.no_grad():
        p = (teacher(tokens, None, None) / temperature).softmax(-1)
    kl = F.kl_div((student / temperature).log_softmax(-1), p, reduction="none").sum(-1)
    each = terms["kl"] * kl + terms["ce"] * F.cross_entropy(student.transpose(1, 2), labels, reduction="none")
    return (each * mask).sum(), each


def step(way: Any, model: Any, teacher: Any, choice: Any, data: dict[str, torch.Tensor], **how: Any) -> dict[str, Any]:
    """Loss, losses, and every gradient, of a loss that is divided as megatron-core does it."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    model.zero_grad(set_to_none=True)
    model.state.choice = choice
    with cuda_as_cpu():
        loss, each = way(model, teacher, **data, **how)
        (loss / 7).backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in weights_of(model).items()}
    gates = [t.grad for t in leaves(choice)]
    return {"loss": loss.detach(), "each": each.detach(), "grads": grads, "gates": gates}


def close(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> None:
    for part in ("loss", "each"):
        torch.testing.assert_close(got[part], want[part], rtol=tolerance, atol=tolerance)
    for name, grad in got["grads"].items():
        torch.testing.assert_close(grad, want["grads"][name], rtol=tolerance, atol=tolerance, msg=name)
    for a, b in zip(got["gates"], want["gates"], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def models(tied: bool = False) -> tuple[Any, Any]:
    """An elastic student and a stock teacher, both in float64; `tied`: their heads are the embeddings."""
    start()
    parent = replace(PARENT, tied=tied)
    pair = build(parent), build(parent, elastic=False)
    for seed, model in enumerate(pair):
        model.double()
        model.config.params_dtype = torch.float64
        randomise(model, seed)
    return pair


@pytest.mark.parametrize("way", CHOICES)
@pytest.mark.parametrize("tied", [False, True])
def test_is_the_loss_of_the_logits_in_every_gradient(tied: bool, way: str) -> None:
    student, teacher = models(tied)
    assert ("output_layer.weight" in dict(student.named_parameters())) is not tied
    got, want = (step(f, student, teacher, CHOICES[way](), batch(), **HOW) for f in (from_hidden, from_logits))
    assert (len(got["gates"]) > 0) == (way == "soft")
    close(got, want, 1e-7 if way == "soft" else 1e-10)  # the gates of this test are float32


@pytest.mark.parametrize("tied", [False, True])
def test_in_the_buffers_of_megatrons_own_ddp(monkeypatch: pytest.MonkeyPatch, tied: bool) -> None:
    """Two micro-batches add up in main_grad, and the dummy gradients are nowhere in it."""
    student, teacher = models(tied)
    want = step(from_logits, student, teacher, MEMBER, batch(), **HOW)["grads"]
    uninitialised = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: uninitialised(*a, **k).fill_(float("nan")))
    ddp = distributed(student, sharded=False, grad_reduce_in_fp32=False)  # its hooks last as long as it does
    ddp.zero_grad_buffer()
    for _ in range(2):
        step(from_hidden, student, teacher, MEMBER, batch(), **HOW)
    for name, p in weights_of(student).items():
        torch.testing.assert_close(p.main_grad, 2 * want[name], rtol=1e-10, atol=1e-10, msg=name)


def test_no_logits_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.megatron.vocabulary import ElasticHead

    student, teacher = models()
    refuse = lambda *_, **__: pytest.fail("logits")  # noqa: E731
    monkeypatch.setattr(ElasticHead, "forward", refuse)
    monkeypatch.setattr(teacher.output_layer, "forward", refuse)
    step(from_hidden, student, teacher, MEMBER, batch(), **HOW)
