# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the terms of `losses` compute of a few rows of logits, each with its gradient.

A term says which softmax denominators it needs, of which ranks with a part of the vocabulary each give theirs; `rows`
puts them together. Then it makes loss and gradient of a block of rows.

Shape suffixes: c rows of a call, b those worked on at a time, v entry of this rank's part of the vocabulary, k one of
the teacher's likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

from nemo_elastic.config.losses import CE, KL


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


class Sum(NamedTuple):
    """A denominator of a softmax: whose, at which temperature, and whether the teacher's likeliest are left out."""

    student: bool
    temperature: float = 1.0
    rest: bool = False


@dataclass(frozen=True)
class Block:
    """Rows that are worked on.

    Attributes:
        at: which rows of the call.
        student_bv: logits in the work dtype.
        teacher_cv: of all rows of the call, as they came; None where no term compares with a teacher.
        labels_b: target token ids in the whole vocabulary; None where none are given.
        norms: denominator -> its logarithm [c], over the whole vocabulary.
        top: the teacher's likeliest tokens, None for all.
        temperature: of what compares with the teacher.
        group: ranks that share the vocabulary.
        gradient: whether gradients are wanted.
        kept: another term reads the teacher's logits after this one.
    """

    at: slice
    student_bv: torch.Tensor
    teacher_cv: torch.Tensor | None
    labels_b: torch.Tensor | None
    norms: Mapping[Sum, torch.Tensor]
    top: Top | None
    temperature: float
    group: dist.ProcessGroup | None
    gradient: bool
    kept: bool = False

    def teacher(self) -> torch.Tensor:
        """The teacher's logits [b, v] in the work dtype, to be written into."""
        assert self.teacher_cv is not None
        return self.teacher_cv[self.at].to(self.student_bv.dtype, copy=self.kept)


class Computed(Protocol):
    """What a term computes.

    Attributes:
        uses_up: it writes into the block's logits: others then get a copy, unless it is the last.
    """

    uses_up: bool

    def sums(self, temperature: float, top: bool) -> tuple[Sum, ...]:
        """The denominators it needs; `top`: the teacher speaks for its likeliest tokens only."""
        ...

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """This rank's share [b] of weight x loss, and the gradient [b, v] of it with respect to the student's logits.

        The shares of all ranks add up to the loss.
        """
        ...


class CrossEntropy:
    """-log of what the student gives to the label; 0 where that is no token. It has no temperature."""

    uses_up = False

    def sums(self, temperature: float, top: bool) -> tuple[Sum, ...]:
        return (Sum(student=True),)

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        student_bv, labels_b = block.student_bv, block.labels_b
        assert labels_b is not None
        norm_b = block.norms[Sum(student=True)][block.at]
        rank, world = (0, 1) if block.group is None else (block.group.rank(), block.group.size())
        size = student_bv.shape[1]
        inside_b = weight * ((labels_b >= 0) & (labels_b < world * size)).to(student_bv.dtype)
        local_b = labels_b - rank * size
        here_b = inside_b * ((local_b >= 0) & (local_b < size)).to(student_bv.dtype)
        index_b1 = local_b.clamp(0, size - 1).unsqueeze(1)
        loss_b = here_b * (norm_b - student_bv.gather(1, index_b1).squeeze(1))
        if not block.gradient:
            return loss_b, None
        gradient_bv = (student_bv - norm_b.unsqueeze(1)).exp_().mul_(inside_b.unsqueeze(1))
        return loss_b, gradient_bv.scatter_add_(1, index_b1, -here_b.unsqueeze(1))


class Divergence:
    """KL(teacher || student) at a temperature, without the factor temperature**2."""

    uses_up = True

    def sums(self, temperature: float, top: bool) -> tuple[Sum, ...]:
        both = tuple(Sum(student, temperature) for student in (True, False))
        return both + (tuple(Sum(student, temperature, rest=True) for student in (True, False)) if top else ())

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        student_bv = block.student_bv
        teacher_bv = _log_probabilities(block)
        p_bv = teacher_bv.exp()
        loss_b = teacher_bv.sub_(student_bv).mul_(p_bv).sum(1)
        if weight != 1:
            loss_b = loss_b * weight
        if not block.gradient:
            return loss_b, None
        return loss_b, student_bv.exp_().sub_(p_bv).div_(block.temperature / weight)


def _log_probabilities(block: Block) -> torch.Tensor:
    """Log-probabilities of student and teacher, in place of their logits; returns the teacher's.

    Outside the top k the teacher's are the student's, moved by one number so that they sum to what the teacher has
    left: the terms of the divergence then add up to that of the one event "any other token", and the difference of
    both probabilities is its gradient.
    """
    at, t = block.at, block.temperature
    norms = {(s.student, s.rest): norm_c[at] for s, norm_c in block.norms.items() if s.temperature == t}
    student_bv = block.student_bv.div_(t).sub_(norms[True, False][:, None])
    if block.top is None:
        return block.teacher().div_(t).sub_(norms[False, False][:, None])
    left_b = norms[False, True] - norms[False, False] - norms[True, True] + norms[True, False]
    top_bk = block.top.logits_ck[at] / t - norms[False, False][:, None]
    return block.top.put(student_bv + left_b.unsqueeze(1), at, top_bk)


#: name of a term -> what it computes
COMPUTED: dict[str, Computed] = {CE.name: CrossEntropy(), KL.name: Divergence()}
