# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and gradient of a few rows of logits, whose vocabulary may be split among ranks.

Two passes over the rows. The first finds the logarithm of every softmax's denominator, which is all that ranks must
tell each other. The second makes loss and gradient, term by term (`terms`). Both work on a few rows at a time, so that
what lies between two operations stays in the processor's cache.

Shape suffixes: c rows of a call, b those worked on at a time, v entry of this rank's part of the vocabulary, k one of
the teacher's likeliest tokens, n kind of denominator, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from nemo_elastic.config.losses import compares
from nemo_elastic.nn.dtype import work_dtype
from nemo_elastic.nn.loss.terms import COMPUTED, Block, Computed, Sum, Top

#: logits worked on at a time; there are up to four temporaries of this size in the work dtype. A processor's cache
#: holds less than a GPU's, which in turn wants fewer and larger kernels
BLOCK_CPU, BLOCK_GPU = 2**20, 2**22


@dataclass(frozen=True)
class LogitRows:
    """What to compute; `head.head_loss` says what the fields mean.

    Attributes:
        terms: name -> weight, above zero.
        temperature: of what compares with the teacher.
        top_k: smaller than the vocabulary, or None.
        group: ranks that share the vocabulary.
    """

    terms: Mapping[str, float]
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
        # what leaves the logits as they are comes first
        terms = sorted(self.terms.items(), key=lambda term: COMPUTED[term[0]].uses_up)
        top = None if teacher_cv is None or self.top_k is None else self._top(teacher_cv, self.top_k)
        norms = self._norms([COMPUTED[name] for name, _ in terms], student_cv, teacher_cv, top)
        share_c = torch.zeros(len(student_cv), dtype=dtype, device=student_cv.device)
        for at in _blocks(student_cv):
            block = Block(
                at,
                student_cv[at].to(dtype),
                teacher_cv,
                None if labels_c is None else labels_c[at],
                norms,
                top,
                self.temperature,
                self.group,
                gradient=weights_c is not None,
            )
            share_c[at], gradient_bv = _sum(terms, block)
            if weights_c is not None:
                assert gradient_bv is not None
                student_cv[at] = gradient_bv.mul_(weights_c[at, None])
        return share_c

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
        self, terms: list[Computed], student_cv: torch.Tensor, teacher_cv: torch.Tensor | None, top: Top | None
    ) -> dict[Sum, torch.Tensor]:
        """Logarithms [c] of the denominators that the terms need, over the whole vocabulary."""
        wanted = dict.fromkeys(s for term in terms for s in term.sums(self.temperature, top is not None))
        found = {}
        for each in wanted:
            logits_cv = student_cv if each.student else teacher_cv
            assert logits_cv is not None
            found[each] = _log_sum(logits_cv, each.temperature, top if each.rest else None)
        if self.group is not None:
            norms_nc = _gather(torch.stack(list(found.values())), self.group).logsumexp(0)
            found = dict(zip(found, norms_nc, strict=True))
        return found


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
