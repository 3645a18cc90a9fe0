# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The squared distance of two distributions as a term of the loss."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nemo_elastic.config.block import json_schema
from nemo_elastic.config.losses import Term, register
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.loss_head import Head, head_loss
from nemo_elastic.plan.activations import Sharding
from nemo_elastic.plan.memory import loss as loss_bytes
from tests.nn.squared import NAME, squared
from tests.shapes import NANO_12B


@pytest.fixture(autouse=True)
def term() -> Iterator[None]:
    with squared():
        yield


def test_is_the_definition_among_others() -> None:
    terms, temperature = {"ce": 0.5, NAME: 0.3, "kl": 0.7}, 1.7
    g = torch.Generator().manual_seed(0)
    x, w, y, v = (torch.randn(n, d, generator=g, dtype=torch.float64) for n, d in ((9, 6), (20, 8), (9, 8), (20, 8)))
    labels = torch.arange(9)
    student = Head(x.requires_grad_(), w.requires_grad_())
    loss, _ = head_loss(student, Head(y, v), labels_t=labels, terms=terms, temperature=temperature, chunk_tokens=4)
    logits = x @ w[:, :6].T
    q, p = (logits / temperature).log_softmax(-1), (y @ v.T / temperature).log_softmax(-1)
    want = terms[NAME] * (q.exp() - p.exp()).square().sum() + terms["kl"] * (p.exp() * (p - q)).sum()
    want = want + terms["ce"] * torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert float(loss) == pytest.approx(float(want), rel=1e-11)
    for ours, theirs in zip(*(torch.autograd.grad(each, [x, w]) for each in (loss, want)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_block_may_name_it_and_its_memory_counts() -> None:
    block = DistillConfig(terms={NAME: 1.0})
    assert block.of(has_teacher=True) == {NAME: 1.0} and block.of(has_teacher=False) == {"ce": 1.0}
    distill = json_schema()["properties"]["elastic"]["properties"]["distill"]
    assert NAME in distill["properties"]["terms"]["anyOf"][0]["properties"]
    plain, own = (DistillConfig(terms={name: 1.0}, chunk_tokens=8192) for name in ("kl", NAME))
    assert loss_bytes(NANO_12B, own, 8192, Sharding()) > loss_bytes(NANO_12B, plain, 8192, Sharding())
    with pytest.raises(ElasticError, match=r"distill.teacher: 'none' is not allowed; .*squared compares"):
        DistillConfig(teacher="none", terms={NAME: 1.0})
    with pytest.raises(ElasticError, match=r"term.name: 'squared'"):
        register(Term(NAME, teacher=True, copies=1))
