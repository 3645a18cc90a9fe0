# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of a head: against torch, ModelOpt, and two ranks against one."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.losses import TERMS
from nemo_elastic.nn import loss_terms
from nemo_elastic.nn.loss_head import Head, head_loss
from tests.nn import head_worker
from tests.nn.squared import NAME, squared
from tests.support.ranks import spawn

EVERY = [
    {"temperature": temperature, "terms": terms}
    for temperature in (1.0, 1.7)
    for terms in (
        {"kl": 1.0},
        {"kl": 1.0, "ce": 0.3},
        {"ce": 0.3, "kl": 0.7},
        {"reverse_kl": 1.0},
        {"reverse_kl": 0.6, "ce": 0.3, "kl": 0.7},
    )
]


def heads(tokens=21, vocabulary=38, width=12, full=16, dtype=torch.float64, seed=0):
    """Student with a slice of its head, teacher with all of one; labels and weights."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    student = Head(normal(tokens, width).requires_grad_(), normal(vocabulary, full).requires_grad_())
    teacher = Head(normal(tokens, full), normal(vocabulary, full))
    labels = torch.randint(vocabulary, (tokens,), generator=g)
    weights = torch.rand(tokens, generator=g, dtype=dtype) * (torch.arange(tokens) % 4 > 0)
    return student, teacher, {"labels_t": labels, "weights_t": weights}


def naive(student, teacher, labels_t, weights_t, temperature=1.0, terms=None):
    """The definition, on whole logits."""
    terms = terms or {"kl": 1.0}
    s_tv = student.hidden_td @ student.part().t()
    loss_t = torch.zeros(len(s_tv), dtype=s_tv.dtype)
    if teacher is not None:
        t_tv = teacher.hidden_td @ teacher.part().t()
        p, q = (t_tv / temperature).softmax(-1), (s_tv / temperature).softmax(-1)
        loss_t = loss_t + terms.get("kl", 0) * F.kl_div(q.log(), p, reduction="none").sum(-1)
        loss_t = loss_t + terms.get("reverse_kl", 0) * (q * (q.log() - p.log())).sum(-1)
    if "ce" in terms:
        loss_t = loss_t + terms["ce"] * F.cross_entropy(s_tv, labels_t, reduction="none")
    return (loss_t * weights_t).sum(), loss_t


def gradients(loss, student, factor=0.37):
    return torch.autograd.grad(loss * factor, [student.hidden_td, student.weight_vd])


def same(actual, expected, **tolerance):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, **tolerance)


@settings(max_examples=40)
@given(
    tokens=st.integers(1, 20),
    vocabulary=st.integers(1, 40),
    width=st.integers(1, 9),
    chunk=st.integers(1, 24),
    block=st.sampled_from([1, 50, 2**20]),
    how=st.sampled_from(EVERY),
)
def test_any_shape(tokens: int, vocabulary: int, width: int, chunk: int, block: int, how: dict[str, Any]) -> None:
    student, teacher, batch = heads(tokens, vocabulary, width, 9, seed=tokens)
    expected = naive(student, teacher, **batch, **how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_terms, "BLOCK_CPU", block)
        actual = head_loss(student, teacher, **batch, **how, chunk_tokens=chunk)
    same(actual, expected, rtol=1e-9, atol=1e-10)
    same(gradients(actual[0], student), gradients(expected[0], student), rtol=1e-8, atol=1e-10)


def test_cross_entropy_alone_and_labels_that_are_no_tokens() -> None:
    student, _, batch = heads()
    expected = naive(student, None, **batch, terms={"ce": 1.0})
    actual = head_loss(student, **batch, terms={"ce": 1.0}, chunk_tokens=4)
    same(actual, expected, rtol=1e-11, atol=1e-12)
    same(gradients(actual[0], student), gradients(expected[0], student), rtol=1e-10, atol=1e-12)
    batch["labels_t"][[3, 5]] = torch.tensor([-100, 38])
    loss, losses = head_loss(student, **batch, terms={"ce": 1.0})
    assert losses[[3, 5]].tolist() == [0, 0]
    assert not gradients(loss, student)[0][[3, 5]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_modelopts_megatron_loss(dtype: torch.dtype) -> None:
    losses = pytest.importorskip("modelopt.torch.distill.plugins.megatron")
    student, teacher, _ = heads(64, 257, 6, 8, dtype)
    config = types.SimpleNamespace(tensor_model_parallel_size=1)
    for temperature in (1.0, 2.0):
        theirs = losses.LogitsKLLoss(config, temperature=temperature)
        s_sbv, t_sbv = ((h.hidden_td @ h.part().t()).view(16, 4, 257) for h in (student, teacher))
        theirs_t = theirs(s_sbv, t_sbv)[0].t().flatten()
        loss, ours_t = head_loss(student, teacher, temperature=temperature)
        assert ours_t.dtype == torch.float32
        torch.testing.assert_close(ours_t, theirs_t, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(loss, theirs_t.sum(), rtol=1e-6, atol=1e-6)
        ours, wanted = gradients(loss, student), gradients(theirs_t.sum(), student)
        assert {g.dtype for g in ours} == {dtype}
        exact = dtype == torch.float32  # in bf16 the logits' gradient is rounded once, here and there
        same(ours, wanted, rtol=1e-6 if exact else 0.02, atol=1e-6 if exact else 0.02)


def test_bf16_sums_the_weights_gradient_in_float32() -> None:
    """Three thousand tokens in many chunks: a sum in bf16 would stop growing."""
    student, teacher, _ = heads(3000, 64, 8, 8, torch.bfloat16)
    wide = Head(*(x.detach().float().requires_grad_() for x in student))
    loss, _ = head_loss(student, teacher, chunk_tokens=16)
    expected, _ = head_loss(wide, Head(*(x.float() for x in teacher)))
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0.0)
    ours, wanted = gradients(loss, student)[1].float(), gradients(expected, wide)[1]
    assert float((ours - wanted).norm() / wanted.norm()) < 0.01


def test_extreme_logits_stay_finite() -> None:
    student, teacher, batch = heads(dtype=torch.float32)
    huge, sharp = (Head(x.hidden_td.detach() * 1e4, x.weight_vd) for x in (student, teacher))
    huge.hidden_td.requires_grad_()
    for how in EVERY:
        loss, losses = head_loss(huge, sharp, **batch, **how)
        assert losses.isfinite().all(), how
        assert all(g.isfinite().all() for g in gradients(loss, huge)), how


def test_computes_no_gradient_that_is_not_wanted() -> None:
    student, teacher, _ = heads()
    frozen = Head(student.hidden_td, student.weight_vd.detach())
    loss, losses = head_loss(frozen, teacher)
    assert not losses.requires_grad
    assert torch.autograd.grad(loss, frozen.hidden_td)[0].any()
    with torch.no_grad():
        assert not head_loss(student, teacher)[0].requires_grad
    learning = Head(teacher.hidden_td.requires_grad_(), teacher.weight_vd.requires_grad_())
    assert not head_loss(Head(*(x.detach() for x in student)), learning)[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_holds_all_tokens_times_the_vocabulary(dtype: torch.dtype) -> None:
    """The largest tensors are two chunks of logits and the weight's gradient."""
    tokens, vocabulary, chunk, width = 1024, 512, 32, 8
    student, teacher, batch = heads(tokens, vocabulary, width, width, dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        head_loss(student, teacher, **batch, chunk_tokens=chunk)[0].backward()
    largest = max(e.cpu_memory_usage for e in profile.events())
    assert 0 < largest <= max(chunk * vocabulary, vocabulary * width, tokens * width) * 4


def rounding(how: dict[str, Any]) -> float:
    """Of a gradient; in that of the reverse divergence are differences of logarithms, not of probabilities."""
    return 5e-6 if "reverse_kl" in how["terms"] else 1e-6


@pytest.mark.dist
def test_two_ranks_are_one(tmp_path: pathlib.Path) -> None:
    with squared():
        taught = [*EVERY, {"terms": {NAME: 1.0}, "temperature": 1.7}, {"terms": {NAME: 0.6, "ce": 0.3, "kl": 0.7}}]
        assert {name for how in taught for name in how["terms"]} == set(TERMS), "every registered term"
        two_ranks_are_one(tmp_path, taught)


def two_ranks_are_one(tmp_path: pathlib.Path, taught: list[dict[str, Any]]) -> None:
    student, teacher, batch = heads(dtype=torch.float32)
    torch.save((tuple(x.detach() for x in student), tuple(teacher), batch, taught), tmp_path / "in.pt")
    spawn(head_worker.main, tmp_path)
    parts = [torch.load(tmp_path / f"{r}.pt") for r in range(2)]
    ways = [*taught, {"terms": {"ce": 1.0}}]
    for i, how in enumerate(ways):
        loss, losses = head_loss(student, teacher if how in taught else None, **batch, **how)
        dx, dw = gradients(loss, student)
        for part in parts:
            same(part[i][:2], (loss.detach(), losses), rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(parts[0][i][2] + parts[1][i][2], dx, rtol=1e-5, atol=rounding(how))
        torch.testing.assert_close(torch.cat([p[i][3] for p in parts]), dw, rtol=1e-5, atol=rounding(how))
    # each has a run of the tokens too
    tokens = len(student[0]) // 2 * 2
    student, teacher = (Head(x[0].detach()[:tokens].requires_grad_(x is student), x[1]) for x in (student, teacher))
    batch = {name: value[:tokens] for name, value in batch.items()}
    shared = [torch.load(tmp_path / f"shared{r}.pt") for r in range(2)]
    assert len(shared[0]) == 3 * len(ways)
    for i in range(len(shared[0])):
        how = ways[i % len(ways)]
        loss, losses = head_loss(student, teacher if how in taught else None, **batch, **how)
        dx, dw = gradients(loss, student)
        for own in shared:
            same(own[i][:2], (loss.detach(), losses), rtol=1e-6, atol=2e-6)
        for piece, wanted in ((2, dx), (3, dw)):
            actual = torch.cat([own[i][piece] for own in shared])
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=rounding(how))


def test_bad_input_is_reported() -> None:
    student, teacher, batch = heads()
    for changed, message in (
        ({"student": Head(teacher[0], teacher[1][:, :8])}, r"student: hidden states \(21, 16\) do not fit a head"),
        ({"teacher": Head(teacher[0][1:], teacher[1])}, "teacher: 20 tokens and 38 rows of the vocabulary, the stud"),
        ({"weights_t": batch["weights_t"][1:]}, r"weights_t has shape \(20,\), not \(21,\)"),
        ({"labels_t": batch["labels_t"][None]}, r"labels_t has shape \(1, 21\), not \(21,\)"),
        ({"teacher": None, "terms": {"kl": 1.0}}, "terms: {'kl': 1.0} compare with a teacher, and there is none"),
        ({"terms": {"mse": 1.0}}, "terms: {'mse': 1.0}: positive weights of kl, ce, reverse_kl"),
        ({"terms": {"ce": 1.0}, "labels_t": None}, "labels_t: cross-entropy needs them"),
        ({"temperature": 0}, "temperature must be positive, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            head_loss(**({"student": student, "teacher": teacher} | batch | changed))


def test_nan_is_not_hidden() -> None:
    student, teacher, _ = heads()
    with torch.no_grad():
        student.hidden_td[4, 0] = float("nan")
    losses = head_loss(student, teacher)[1]
    assert losses[4].isnan()
    assert losses.isnan().sum() == 1
