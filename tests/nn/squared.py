# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A term that the package has not, without a change of it: the squared distance of two distributions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nemo_elastic.config.losses import TERMS, Term, register
from nemo_elastic.nn.loss_terms import COMPUTED, Block, Denominator

NAME = "squared"


class Squared:
    """Sum over tokens of (q - p)^2."""

    uses_up = True

    def denominators(self, temperature: float) -> tuple[Denominator, ...]:
        return Denominator(True, temperature), Denominator(False, temperature)

    def rows(self, block: Block, weight: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        t = block.temperature
        q_bv = block.student_bv.div_(t).sub_(block.norms[Denominator(True, t)][block.at, None]).exp_()
        apart_bv = q_bv - block.teacher().div_(t).sub_(block.norms[Denominator(False, t)][block.at, None]).exp_()
        loss_b = apart_bv.square().sum(1)
        mean_b1 = block.whole((q_bv * apart_bv).sum(1)).unsqueeze(1)
        return weight * loss_b, (apart_bv - mean_b1).mul_(q_bv).mul_(2 * weight / t)


@contextmanager
def squared() -> Iterator[None]:
    """The term is there as long as this lasts."""
    register(Term(NAME, teacher=True, copies=3))
    COMPUTED[NAME] = Squared()
    yield
    del TERMS[NAME], COMPUTED[NAME]
