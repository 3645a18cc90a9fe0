# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and gradient of a few rows of logits, whose vocabulary may be split among ranks: the terms of `losses`.

Two passes over the rows. The first finds the logarithm of every softmax's denominator over all ranks; a term says
which it needs. The second makes loss and gradient, term by term. Both work on a few rows at a time, so that what lies
between two operations stays in the processor's cache.

Shape suffixes: c rows of a call, b those worked on at a time, v entry of this rank's part of the vocabulary, n kind of
denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

from nemo_elastic.config.losses import CE, KL, REVERSE_KL, compares
from nemo_elastic.nn.functional import work_dtype


class Denominator(NamedTuple):
    """A denominator of a softmax: whose, and at which temperature."""

    student: bool
    temperature: float = 1.0


@dataclass(frozen=True)
class Block:
    """Rows that are worked on.

    Attributes:
        at: which rows of the call.
        student_bv: logits in the work dtype.
        teacher_cv: of all rows of the call, as they came; None where no term compares with a teacher.
        labels_b: target token ids in the whole vocabulary; None where none are given.
        norms: denominator -> its logarithm [c], over the whole vocabulary.
        temperature: of what compares with the teacher.
        group: ranks that share the vocabulary.
        gradient: whether gradients are wanted.
        kept: another term reads the teacher's logits after this one.
    """

    at: slice
    student_bv: torch.Tensor
    teacher_cv: torch.Tensor | None
    labels_b: torch.Tensor | None
    norms: Mapping[Denominator, torch.Tensor]
    temperature: float
    group: dist.ProcessGroup | None
    gradient: bool
    kept: bool = False

    def teacher(self) -> torch.Tensor:
        """The teacher's logits [b, v] in the work dtype, to be written into."""
        assert self.teacher_cv is not None
        return self.teacher_cv[self.at].to(self.student_bv.dtype, copy=self.kept)

    def whole(self, part_b: torch.Tensor) -> torch.Tensor:
        """The sum over the whole vocabulary, of what this rank has summed over its part; all ranks call it alike."""
        return part_b if self.group is None else _gather(part_b, self.group).sum(0)


class Computed(Protocol):
    """What a term computes.

    Attributes:
        uses_up: it writes into the block's logits: others then get a copy, unless it is the last.
    """

    uses_up: bool

    def denominators(self, temperature: float) -> tuple[Denominator, ...]:
        """The denominators it needs."""
        ...

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """This rank's share [b] of weight x loss, and the gradient [b, v] of it with respect to the student's logits.

        The shares of all ranks add up to the loss. A gradient that needs a sum over the vocabulary takes it from
        `Block.whole`: this rank sees its part alone.
        """
        ...


class CrossEntropy:
    """-log of what the student gives to the label; 0 where that is no token. It has no temperature."""

    uses_up = False

    def denominators(self, temperature: float) -> tuple[Denominator, ...]:
        return (Denominator(student=True),)

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        student_bv, labels_b = block.student_bv, block.labels_b
        assert labels_b is not None
        norm_b = block.norms[Denominator(student=True)][block.at]
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

    def denominators(self, temperature: float) -> tuple[Denominator, ...]:
        return Denominator(True, temperature), Denominator(False, temperature)

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


class ReverseDivergence(Divergence):
    """KL(student || teacher) at a temperature, without the factor temperature**2."""

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        teacher_bv = _log_probabilities(block)
        gap_bv = block.student_bv - teacher_bv
        q_bv = block.student_bv.exp_()
        loss_b = (q_bv * gap_bv).sum(1)
        if not block.gradient:
            return weight * loss_b, None
        whole_b1 = block.whole(loss_b).unsqueeze(1)
        return weight * loss_b, q_bv.mul_(gap_bv.sub_(whole_b1)).mul_(weight / block.temperature)


def _log_probabilities(block: Block) -> torch.Tensor:
    """Log-probabilities of student and teacher, in place of their logits; returns the teacher's."""
    t = block.temperature
    student_b, teacher_b = (block.norms[Denominator(student, t)][block.at] for student in (True, False))
    block.student_bv.div_(t).sub_(student_b[:, None])
    return block.teacher().div_(t).sub_(teacher_b[:, None])


#: name of a term -> what it computes
COMPUTED: dict[str, Computed] = {
    CE.name: CrossEntropy(),
    KL.name: Divergence(),
    REVERSE_KL.name: ReverseDivergence(),
}


#: logits worked on at a time; there are up to four temporaries of this size in the work dtype. A processor's cache
#: holds less than a GPU's, which in turn wants fewer and larger kernels
BLOCK_CPU, BLOCK_GPU = 2**20, 2**22


@dataclass(frozen=True)
class LogitRows:
    """What to compute; `loss_head.head_loss` says what the fields mean.

    Attributes:
        terms: name -> weight, above zero.
        temperature: of what compares with the teacher.
        group: ranks that share the vocabulary.
    """

    terms: Mapping[str, float]
    temperature: float
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
        # what leaves the logits as they are comes first
        terms = sorted(self.terms.items(), key=lambda term: COMPUTED[term[0]].uses_up)
        norms = self._norms([COMPUTED[name] for name, _ in terms], student_cv, teacher_cv)
        share_c = torch.zeros(len(student_cv), dtype=dtype, device=student_cv.device)
        for at in _blocks(student_cv):
            block = Block(
                at,
                student_cv[at].to(dtype),
                teacher_cv,
                None if labels_c is None else labels_c[at],
                norms,
                self.temperature,
                self.group,
                gradient=weights_c is not None,
            )
            share_c[at], gradient_bv = _sum(terms, block)
            if weights_c is not None:
                assert gradient_bv is not None
                student_cv[at] = gradient_bv.mul_(weights_c[at, None])
        return share_c

    def _norms(
        self, terms: list[Computed], student_cv: torch.Tensor, teacher_cv: torch.Tensor | None
    ) -> dict[Denominator, torch.Tensor]:
        """Logarithms [c] of the denominators that the terms need, over the whole vocabulary."""
        wanted = dict.fromkeys(s for term in terms for s in term.denominators(self.temperature))
        norms = {}
        for each in wanted:
            logits_cv = student_cv if each.student else teacher_cv
            assert logits_cv is not None
            norms[each] = _log_sum(logits_cv, each.temperature)
        if self.group is not None:
            norms_nc = _gather(torch.stack(list(norms.values())), self.group).logsumexp(0)
            norms = dict(zip(norms, norms_nc, strict=True))
        return norms


def _sum(terms: Sequence[tuple[str, float]], block: Block) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Loss [b] and gradient [b, v] of all terms."""
    loss_b = gradient_bv = None
    for i, (name, weight) in enumerate(terms):
        term, own, later = COMPUTED[name], block, [other for other, _ in terms[i + 1 :]]
        if term.uses_up and later:
            own = replace(block, student_bv=block.student_bv.clone(), kept=compares(later))
        each_b, each_bv = term.rows(own, weight)
        loss_b = each_b if loss_b is None else loss_b + each_b
        if each_bv is not None:
            gradient_bv = each_bv if gradient_bv is None else each_bv.add_(gradient_bv)
    assert loss_b is not None
    return loss_b, gradient_bv


def _log_sum(logits_cv: torch.Tensor, temperature: float) -> torch.Tensor:
    """log sum exp(logits / temperature) of this rank's part, [c]."""
    dtype = work_dtype(logits_cv)
    out_c = torch.empty(len(logits_cv), dtype=dtype, device=logits_cv.device)
    for at in _blocks(logits_cv):
        rows_bv = logits_cv[at].to(dtype)
        if temperature != 1:
            rows_bv = rows_bv / temperature
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
