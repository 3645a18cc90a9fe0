# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A term that the package has not, without a change of it: the squared distance of two distributions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nemo_elastic.config.losses import TERMS, Term, register
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.loss.head import Head, head_loss
from nemo_elastic.nn.loss.terms import COMPUTED, Block, Sum
from nemo_elastic.plan.activations import Sharding
from nemo_elastic.plan.memory import loss as loss_bytes
from tests.shapes import NANO_12B

NAME = "squared"


class Squared:
    """Sum over tokens of (q - p)^2."""

    uses_up = True

    def sums(self, temperature: float, top: bool) -> tuple[Sum, ...]:
        assert not top, "it looks at all tokens"
        return Sum(True, temperature), Sum(False, temperature)

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        t = block.temperature
        q_bv = block.student_bv.div_(t).sub_(block.norms[Sum(True, t)][block.at, None]).exp_()
        apart_bv = q_bv - block.teacher().div_(t).sub_(block.norms[Sum(False, t)][block.at, None]).exp_()
        loss_b = apart_bv.square().sum(1)
        gradient_bv = (apart_bv - (q_bv * apart_bv).sum(1, keepdim=True)).mul_(q_bv).mul_(2 * weight / t)
        return weight * loss_b, gradient_bv


@pytest.fixture(autouse=True)
def term() -> Iterator[None]:
    register(Term(NAME, teacher=True, copies=3))
    COMPUTED[NAME] = Squared()
    yield
    del TERMS[NAME], COMPUTED[NAME]


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("terms", [{NAME: 1.0}, {"ce": 0.5, NAME: 0.3, "kl": 0.7}], ids=str)
def test_is_the_definition_alone_and_among_others(terms: dict[str, float], temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, w, y, v = (torch.randn(n, d, generator=g, dtype=torch.float64) for n, d in ((9, 6), (20, 8), (9, 8), (20, 8)))
    labels = torch.arange(9)
    student = Head(x.requires_grad_(), w.requires_grad_())
    loss, _ = head_loss(student, Head(y, v), labels_t=labels, terms=terms, temperature=temperature, chunk_tokens=4)
    logits = x @ w[:, :6].T
    q, p = (logits / temperature).log_softmax(-1), (y @ v.T / temperature).log_softmax(-1)
    want = terms[NAME] * (q.exp() - p.exp()).square().sum() + terms.get("kl", 0) * (p.exp() * (p - q)).sum()
    want = want + terms.get("ce", 0) * torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert float(loss) == pytest.approx(float(want), rel=1e-11)
    for ours, theirs in zip(*(torch.autograd.grad(each, [x, w]) for each in (loss, want)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_block_may_name_it_and_its_memory_counts() -> None:
    block = DistillConfig(terms={NAME: 1.0})
    assert block.of(taught=True) == {NAME: 1.0} and block.of(taught=False) == {"ce": 1.0}
    plain, own = (DistillConfig(terms={name: 1.0}, chunk_tokens=8192) for name in ("kl", NAME))
    assert loss_bytes(NANO_12B, own, 8192, Sharding()) > loss_bytes(NANO_12B, plain, 8192, Sharding())
    with pytest.raises(ElasticError, match=r"distill.teacher: 'none' is not allowed; .*squared compares"):
        DistillConfig(teacher="none", terms={NAME: 1.0})
    with pytest.raises(ElasticError, match=r"term.name: 'squared'"):
        register(Term(NAME, teacher=True, copies=1))
