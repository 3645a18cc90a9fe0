# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Losses over the vocabulary: forward KL divergence (teacher || student), and cross-entropy.

At a vocabulary of 131072 a float32 copy of the logits of 8192 tokens is 4 GiB, so the divergence is computed chunk by
chunk of tokens: no temporary is larger than ``chunk_tokens`` x vocabulary.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F

from nemo_elastic.nn.dtype import work_dtype


def forward_kl(
    student_logits_tv: torch.Tensor,
    teacher_logits_tv: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 512,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """KL(teacher || student) of every token, in nats, at ``temperature`` and without the factor temperature**2.

    Differentiable in the student alone: the gradient is ``(softmax(student / T) - softmax(teacher / T)) / T``. It is
    computed in the forward pass and kept in the student's dtype, so that neither logits have to live until the
    backward pass and their exponentials are taken once. There is no second derivative.

    Args:
        student_logits_tv: ``[..., v]``.
        teacher_logits_tv: Same shape. May hold -inf (entries that cannot occur), where the student may too.
        temperature: Divides both logits; positive.
        chunk_tokens: Tokens worked on at a time; bounds the temporaries, does not change the value.
        group: The ranks among which the vocabulary is split (tensor parallelism). Every rank passes its own part of
            the last dimension and gets the whole divergence; the gradient is that of its own part. Every rank of the
            group must call with the same number of tokens and the same ``chunk_tokens``.

    Returns:
        ``[...]`` in float32 (float64 if the logits are).

    Raises:
        ValueError: The shapes differ, or ``temperature`` or ``chunk_tokens`` is not positive.
    """
    if student_logits_tv.shape != teacher_logits_tv.shape:
        raise ValueError(
            f"student logits {tuple(student_logits_tv.shape)} and teacher logits "
            f"{tuple(teacher_logits_tv.shape)} differ in shape"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be positive, not {chunk_tokens}")
    vocabulary = student_logits_tv.shape[-1]
    kl_t = _ForwardKL.apply(
        student_logits_tv.reshape(-1, vocabulary),
        teacher_logits_tv.detach().reshape(-1, vocabulary),
        float(temperature),
        chunk_tokens,
        group,
        torch.is_grad_enabled() and student_logits_tv.requires_grad,
    )
    return kl_t.view(student_logits_tv.shape[:-1])


def cross_entropy(logits_tv: torch.Tensor, labels_t: torch.Tensor, *, ignore_index: int = -100) -> torch.Tensor:
    """Cross-entropy of every token, in nats, on one process (Megatron's own covers a split vocabulary).

    Args:
        logits_tv: ``[..., v]``.
        labels_t: Token ids ``[...]``.
        ignore_index: Label whose loss is 0.

    Returns:
        ``[...]`` in float32 (float64 if the logits are).
    """
    flat_tv = logits_tv.reshape(-1, logits_tv.shape[-1]).to(work_dtype(logits_tv))
    loss_t = F.cross_entropy(flat_tv, labels_t.reshape(-1), reduction="none", ignore_index=ignore_index)
    return loss_t.view(labels_t.shape)


class _ForwardKL(torch.autograd.Function):
    """KL(teacher || student) per row of two-dimensional logits."""

    @staticmethod
    def forward(ctx, student_tv, teacher_tv, temperature, chunk_tokens, group, with_grad):
        dtype = work_dtype(student_tv, teacher_tv)
        kl_t = student_tv.new_empty(student_tv.shape[0], dtype=dtype)
        grad_tv = torch.empty_like(student_tv) if with_grad else None
        for start in range(0, student_tv.shape[0], chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            kl_t[rows] = _kl_rows(
                student_tv[rows],
                teacher_tv[rows],
                temperature,
                group,
                dtype,
                None if grad_tv is None else grad_tv[rows],
            )
        ctx.save_for_backward(grad_tv)
        return kl_t

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_t):
        (grad_tv,) = ctx.saved_tensors
        if grad_tv is None:
            return (None,) * 6
        # `out` keeps the product in the logits' dtype and the factor in its own, without a larger copy of all logits
        product_tv = torch.mul(grad_tv, grad_t.unsqueeze(-1), out=torch.empty_like(grad_tv))
        return product_tv, None, None, None, None, None


def _kl_rows(
    student_tv: torch.Tensor,
    teacher_tv: torch.Tensor,
    temperature: float,
    group: dist.ProcessGroup | None,
    dtype: torch.dtype,
    grad_tv: torch.Tensor | None,
) -> torch.Tensor:
    """KL of a few rows, ``[t]``; writes the gradient with respect to ``student_tv`` into ``grad_tv`` if there is one.

    With s, t the logits minus their maximum and Z their sums of exponentials:
    ``KL = sum(exp(t) * (t - s)) / Z_t - log Z_t + log Z_s``: three sums, so one all-reduce after that of the maxima.
    """
    student = student_tv.to(dtype) / temperature
    teacher = teacher_tv.to(dtype) / temperature
    peaks_2t = torch.stack([student.amax(-1), teacher.amax(-1)])
    if group is not None:
        dist.all_reduce(peaks_2t, op=dist.ReduceOp.MAX, group=group)
    student.sub_(peaks_2t[0].unsqueeze(-1))
    teacher.sub_(peaks_2t[1].unsqueeze(-1))
    teacher_exp = teacher.exp()
    gap = teacher.sub_(student)  # the shifted teacher is not needed again
    student_exp = student.exp_()
    # an impossible token adds nothing, even where both logits are -inf and their difference is nan
    gap.masked_fill_(teacher_exp == 0, 0.0)
    sums_3t = torch.stack([student_exp.sum(-1), teacher_exp.sum(-1), (gap.mul_(teacher_exp)).sum(-1)])
    if group is not None:
        dist.all_reduce(sums_3t, group=group)
    student_z, teacher_z, weighted = sums_3t
    if grad_tv is not None:
        student_p = student_exp.div_((student_z * temperature).unsqueeze(-1))
        grad_tv.copy_(student_p.sub_(teacher_exp.div_((teacher_z * temperature).unsqueeze(-1))))
    return weighted / teacher_z - teacher_z.log() + student_z.log()
