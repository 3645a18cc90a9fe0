# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.nn.kl."""

import os
import pathlib
import subprocess
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.nn import cross_entropy, forward_kl


def logits(tokens=10, vocabulary=33, seed=0, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(tokens, vocabulary, generator=gen, dtype=dtype) for _ in range(2))


def naive(student, teacher, temperature=1.0):
    s, t = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(-1)


@settings(deadline=None, max_examples=30)
@given(
    tokens=st.integers(1, 20),
    vocabulary=st.integers(1, 40),
    chunk=st.integers(1, 24),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_is_torchs_divergence_with_its_gradient(tokens, vocabulary, chunk, temperature):
    student, teacher = logits(tokens, vocabulary, seed=tokens)
    student.requires_grad_()
    expected = naive(student, teacher, temperature)
    actual = forward_kl(student, teacher, temperature=temperature, chunk_tokens=chunk)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    g = torch.rand_like(actual)
    (a,), (e,) = (torch.autograd.grad(y, student, g) for y in (actual, expected))
    torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    student, teacher = logits(3, 5)
    assert torch.autograd.gradcheck(lambda s: forward_kl(s, teacher, temperature=1.5), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_modelopts_loss(dtype):
    losses = pytest.importorskip("modelopt.torch.distill.plugins.megatron")
    student_sbv, teacher_sbv = (x.to(dtype).view(16, 4, 257) for x in logits(64, 257))
    student_sbv.requires_grad_()
    config = types.SimpleNamespace(tensor_model_parallel_size=1)
    theirs_bs, *_ = losses.LogitsKLLoss(config)(student_sbv, teacher_sbv)
    theirs = theirs_bs.t()
    ours = forward_kl(student_sbv, teacher_sbv)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    (a,), (e,) = (torch.autograd.grad(y.sum(), student_sbv) for y in (ours, theirs))
    assert a.dtype == dtype
    torch.testing.assert_close(a, e, rtol=1e-6 if dtype == torch.float32 else 0.01, atol=1e-6)


def test_leading_dimensions_are_kept_and_nothing_is_changed():
    student, teacher = (x.view(2, 5, 33) for x in logits())
    copies = student.clone(), teacher.clone()
    kl = forward_kl(student, teacher, chunk_tokens=3)
    assert kl.shape == (2, 5)
    assert torch.equal(kl.flatten(), forward_kl(student.flatten(0, 1), teacher.flatten(0, 1)))
    assert torch.equal(student, copies[0])
    assert torch.equal(teacher, copies[1])


def test_no_gradient_where_none_is_wanted():
    student, teacher = logits()
    assert not forward_kl(student, teacher.requires_grad_()).requires_grad
    with torch.no_grad():
        assert not forward_kl(student.requires_grad_(), teacher).requires_grad


def test_equal_logits_give_zero_and_huge_ones_stay_finite():
    student, teacher = logits(dtype=torch.float32)
    assert forward_kl(student, student.clone()).abs().max() < 1e-6
    s = (student * 1e4).requires_grad_()
    kl = forward_kl(s, teacher * 1e4)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert s.grad.isfinite().all()


def test_impossible_tokens_count_for_nothing_and_nan_is_not_hidden():
    student, teacher = logits()
    mask = torch.zeros(33, dtype=torch.bool)
    mask[-4:] = True
    s, t = (x.masked_fill(mask, float("-inf")) for x in (student, teacher))
    s.requires_grad_()
    kl = forward_kl(s, t)
    torch.testing.assert_close(kl, naive(student[:, :-4], teacher[:, :-4]), rtol=1e-10, atol=1e-12)
    kl.sum().backward()
    assert s.grad[:, -4:].abs().max() == 0
    student[0, 0] = float("nan")
    assert forward_kl(student, teacher)[0].isnan()


def test_temporaries_are_bounded_by_the_chunk():
    """Largest single allocation of a call without gradient, from torch's own profiler."""
    student, teacher = logits(512, 256, dtype=torch.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        forward_kl(student, teacher, chunk_tokens=16)
    largest = max(e.self_cpu_memory_usage / max(e.count, 1) for e in profile.key_averages())
    assert largest <= 16 * 256 * 4


def test_cross_entropy():
    z = logits()[0].view(2, 5, 33)
    labels = torch.arange(10).view(2, 5)
    labels[0, 0] = -100
    loss = cross_entropy(z, labels)
    assert loss.shape == (2, 5)
    assert loss[0, 0] == 0
    torch.testing.assert_close(loss.flatten()[1:], -z.log_softmax(-1).view(10, 33)[range(1, 10), range(1, 10)])


def test_bad_input_is_told():
    student, teacher = logits()
    with pytest.raises(ValueError, match=r"student logits \(10, 33\) and teacher logits \(10, 32\) differ"):
        forward_kl(student, teacher[:, 1:])
    with pytest.raises(ValueError, match="temperature must be positive, not 0"):
        forward_kl(student, teacher, temperature=0)
    with pytest.raises(ValueError, match="chunk_tokens must be positive, not 0"):
        forward_kl(student, teacher, chunk_tokens=0)


@pytest.mark.dist
def test_split_vocabulary_on_two_ranks_is_one_rank(tmp_path):
    student, teacher = (x.float() for x in logits(21, 34))
    torch.save((student, teacher), tmp_path / "logits.pt")
    worker = pathlib.Path(__file__).with_name("kl_worker.py")
    root = str(pathlib.Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    ranks = [subprocess.Popen([sys.executable, worker, str(r), tmp_path], env=env) for r in range(2)]
    assert [r.wait(timeout=120) for r in ranks] == [0, 0]
    parts = [torch.load(tmp_path / f"{r}.pt") for r in range(2)]
    kl = forward_kl(student.requires_grad_(), teacher, temperature=1.3)
    (kl * torch.arange(21)).sum().backward()
    for part, _ in parts:
        torch.testing.assert_close(part, kl.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([g for _, g in parts], 1), student.grad, rtol=1e-5, atol=1e-6)
