# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Terms of the training loss: what each compares with, and its memory.

What a term computes stands in `nn.loss_terms`, under the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nemo_elastic.errors import bad


@dataclass(frozen=True)
class Term:
    """A term of the loss of a token.

    Attributes:
        name: in `elastic.distill.terms`.
        teacher: whether it compares with the teacher.
        copies: blocks of logits in the work dtype in addition to the student's, for the memory formula.
    """

    name: str
    teacher: bool
    copies: int


#: forward divergence from the teacher, cross-entropy, reverse divergence
KL, CE = Term("kl", teacher=True, copies=2), Term("ce", teacher=False, copies=1)
REVERSE_KL = Term("reverse_kl", teacher=True, copies=3)
TERMS: dict[str, Term] = {term.name: term for term in (KL, CE, REVERSE_KL)}


def compares(terms: Iterable[str]) -> bool:
    """Whether one of the terms needs a teacher."""
    return any(TERMS[name].teacher for name in terms)


def register(term: Term) -> Term:
    """Add a term; its computation goes into `nn.loss_terms.COMPUTED`."""
    if term.name in TERMS:
        raise bad("term.name", term.name, "a name that no other term has")
    TERMS[term.name] = term
    return term
