# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and gradient of a few rows of logits, whose vocabulary may be split among ranks.

Two passes over the rows. The first finds the logarithm of every softmax's denominator, which is all that ranks must
tell each other. The second makes log-probabilities of logits, and of those loss and gradient. Both work on a few rows
at a time, so that what lies between two operations stays in the processor's cache.

Shape suffixes: c rows of a call, b those worked on at a time, v entry of this rank's part of the vocabulary, k one of
the teacher's likeliest tokens, n kind of denominator, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from nemo_elastic.nn.dtype import work_dtype

#: logits worked on at a time; there are up to four temporaries of this size in the work dtype. A processor's cache
#: holds less than a GPU's, which in turn wants fewer and larger kernels
BLOCK_CPU, BLOCK_GPU = 2**20, 2**22


class Top(NamedTuple):
    """This rank's candidates for the teacher's k likeliest tokens: where, their logits, whether among the k."""

    index_ck: torch.Tensor
    logits_ck: torch.Tensor
    among_ck: torch.Tensor

    def put(self, rows_bv: torch.Tensor, at: slice, values_bk: torch.Tensor) -> torch.Tensor:
        """Write values into the entries of those that are among the k, in place."""
        index_bk = self.index_ck[at]
        kept_bk = torch.where(self.among_ck[at], values_bk.to(rows_bv.dtype), rows_bv.gather(1, index_bk))
        return rows_bv.scatter_(1, index_bk, kept_bk)


@dataclass(frozen=True)
class LogitRows:
    """What to compute; `head_loss.head_loss` says what the fields mean.

    Attributes:
        ce: weight of the cross-entropy.
        temperature: of the divergence.
        top_k: smaller than the vocabulary, or None.
        group: ranks that share the vocabulary.
    """

    ce: float
    temperature: float
    top_k: int | None
    group: dist.ProcessGroup | None

    def __call__(
        self,
        student_cv: torch.Tensor,
        teacher_cv: torch.Tensor | None,
        labels_c: torch.Tensor | None,
        weights_c: torch.Tensor | None,
    ) -> torch.Tensor:
        """This rank's share [c] of the loss of every row: the shares of all ranks add up to it.

        The logits are used up. With weights, `student_cv` holds afterwards the gradient of sum(weights x loss).
        """
        dtype = work_dtype(student_cv)
        top = None if teacher_cv is None or self.top_k is None else self._top(teacher_cv, self.top_k)
        norms = self._norms(student_cv, teacher_cv, top)
        share_c = torch.zeros(len(student_cv), dtype=dtype, device=student_cv.device)
        for at in _blocks(student_cv):
            student_bv, gradient_bv = student_cv[at].to(dtype), None
            if labels_c is not None and self.ce:  # first: it leaves the student's logits as they are
                loss_b, gradient_bv = self._cross_entropy(student_bv, labels_c[at], norms["plain"][at])
                share_c[at] += loss_b
            if teacher_cv is not None:
                teacher_bv = self._log_teacher(student_bv, teacher_cv[at].to(dtype), norms, at, top)
                p_bv = teacher_bv.exp()
                share_c[at] += teacher_bv.sub_(student_bv).mul_(p_bv).sum(1)
                if weights_c is not None:
                    kl_bv = student_bv.exp_().sub_(p_bv).div_(self.temperature)
                    gradient_bv = kl_bv if gradient_bv is None else kl_bv.add_(gradient_bv)
            if weights_c is not None:
                assert gradient_bv is not None
                student_cv[at] = gradient_bv.mul_(weights_c[at, None])
        return share_c

    def _log_teacher(
        self,
        student_bv: torch.Tensor,
        teacher_bv: torch.Tensor,
        norms: dict[str, torch.Tensor],
        at: slice,
        top: Top | None,
    ) -> torch.Tensor:
        """Log-probabilities of student and teacher, in place of their logits; returns the teacher's.

        Outside the top k the teacher's are the student's, moved by one number so that they sum to what the teacher
        has left: the terms of the divergence then add up to that of the one event "any other token", and the
        difference of both probabilities is its gradient.
        """
        student_bv.div_(self.temperature).sub_(norms["student"][at, None])
        if top is None:
            return teacher_bv.div_(self.temperature).sub_(norms["teacher"][at, None])
        left_b = (norms["teacher_rest"] - norms["teacher"] - norms["student_rest"] + norms["student"])[at]
        top_bk = top.logits_ck[at] / self.temperature - norms["teacher"][at, None]
        return top.put(student_bv + left_b.unsqueeze(1), at, top_bk)

    def _cross_entropy(
        self, student_bv: torch.Tensor, labels_b: torch.Tensor, norm_b: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ce x cross-entropy where the label is on this rank, and this rank's part of the gradient."""
        rank, world = (0, 1) if self.group is None else (self.group.rank(), self.group.size())
        size = student_bv.shape[1]
        inside_b = self.ce * ((labels_b >= 0) & (labels_b < world * size)).to(student_bv.dtype)
        local_b = labels_b - rank * size
        here_b = inside_b * ((local_b >= 0) & (local_b < size)).to(student_bv.dtype)
        index_b1 = local_b.clamp(0, size - 1).unsqueeze(1)
        loss_b = here_b * (norm_b - student_bv.gather(1, index_b1).squeeze(1))
        gradient_bv = (student_bv - norm_b.unsqueeze(1)).exp_().mul_(inside_b.unsqueeze(1))
        return loss_b, gradient_bv.scatter_add_(1, index_b1, -here_b.unsqueeze(1))

    def _top(self, teacher_cv: torch.Tensor, k: int) -> Top:
        """The teacher's k likeliest tokens of the whole vocabulary; which of equal ones at the border is open."""
        logits_ck, index_ck = teacher_cv.topk(min(k, teacher_cv.shape[1]), dim=1)
        if self.group is None:
            return Top(index_ck, logits_ck, torch.ones_like(index_ck, dtype=torch.bool))
        all_crk = _gather(logits_ck, self.group).transpose(0, 1)
        chosen_ck = all_crk.flatten(1).topk(k, dim=1).indices
        among_crk = (
            torch.zeros_like(all_crk, dtype=torch.bool).flatten(1).scatter_(1, chosen_ck, True).view_as(all_crk)
        )
        return Top(index_ck, logits_ck, among_crk[:, self.group.rank()])

    def _norms(
        self, student_cv: torch.Tensor, teacher_cv: torch.Tensor | None, top: Top | None
    ) -> dict[str, torch.Tensor]:
        """Logarithms [c] of the denominators, over the whole vocabulary.

        student, teacher: of both at the temperature; *_rest: without the top k; plain: the student's at temperature 1.
        """
        found: dict[str, torch.Tensor] = {}
        if teacher_cv is not None:
            for name, logits_cv in (("student", student_cv), ("teacher", teacher_cv)):
                found[name] = _log_sum(logits_cv, self.temperature)
                if top is not None:
                    found[f"{name}_rest"] = _log_sum(logits_cv, self.temperature, top)
        if self.ce and (teacher_cv is None or self.temperature != 1):
            found["plain"] = _log_sum(student_cv, 1.0)
        if self.group is not None:
            norms_nc = _gather(torch.stack(list(found.values())), self.group).logsumexp(0)
            found = dict(zip(found, norms_nc, strict=True))
        if self.ce and "plain" not in found:
            found["plain"] = found["student"]
        return found


def _log_sum(logits_cv: torch.Tensor, temperature: float, without: Top | None = None) -> torch.Tensor:
    """log sum exp(logits / temperature) of this rank's part, [c]."""
    dtype = work_dtype(logits_cv)
    out_c = torch.empty(len(logits_cv), dtype=dtype, device=logits_cv.device)
    for at in _blocks(logits_cv):
        rows_bv = logits_cv[at].to(dtype)
        if temperature != 1:
            rows_bv = rows_bv / temperature
        if without is not None:
            rows_bv = rows_bv.clone()
            rows_bv = without.put(rows_bv, at, torch.full_like(without.logits_ck[at], float("-inf")))
        out_c[at] = rows_bv.logsumexp(1)
    return out_c


def _gather(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The tensors of all ranks, stacked along a new first dimension."""
    out = x.new_empty(group.size() * x.shape[0], *x.shape[1:])
    dist.all_gather_into_tensor(out, x.contiguous(), group=group)
    return out.unflatten(0, (group.size(), -1))


def _blocks(rows_cv: torch.Tensor) -> Iterator[slice]:
    size = max(1, (BLOCK_CPU if rows_cv.device.type == "cpu" else BLOCK_GPU) // rows_cv.shape[1])
    for start in range(0, len(rows_cv), size):
        yield slice(start, start + size)
