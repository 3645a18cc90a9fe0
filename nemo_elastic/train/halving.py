# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Successive halving: each budget's candidates train in turn, and where a cut is due the worse ones go.

Candidates of a budget share its micro-batches and, as all members do, the weights. What is left stays nested. Those
that have had no micro-batch when the first cut is due go untrained: they are the last by the search's loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nemo_elastic.core.family import Subnet
from nemo_elastic.search.chains import different_chains

from .members import Candidate
from .seam import Host
from .training import FamilyTraining

#: of a loss, before its logarithm is taken
LEAST = 1e-9


def halve(family: FamilyTraining, host: Host, step: int) -> None:
    """Compare the candidates if a cut is due when so many steps are done, and let the worse go. All ranks call it.

    A later stage that finds several makes the cuts that are left at once.
    """
    config, members = family.config, family.members
    steps = config.halving.steps(family.steps)
    due = sum(cut <= step for cut in steps) if family.stage == 1 else len(steps)
    if members.cut >= due:
        return
    every = [members.candidates(budget) for budget in range(len(config.budgets))]
    if family.stage == 1 and members.cut == 0:
        had = family.sampler.counts(step, host.micro_batches)
        every = [candidates[:count] for candidates, count in zip(every, had, strict=True)]
    flat = [c.member for candidates in every for c in candidates]
    losses = iter(host.compare(flat, max(1, config.halving.tokens // host.seq_length)) if flat else ())
    measured = [[(c, next(losses)) for c in candidates] for candidates in every]
    family.compared = {
        budget.name: {c.number: loss for c, loss in losses_of}
        for budget, losses_of in zip(config.budgets, measured, strict=True)
        if losses_of
    }
    left = halved(measured, members.get(), 2 ** (len(steps) - due))
    best = [kept[0].member if kept else m for kept, m in zip(left, members.get(), strict=True)]
    members.put(best, frozen=False)
    members.put_candidates(left, due)


def halved(
    measured: Sequence[Sequence[tuple[Candidate, float]]], members: Sequence[Subnet], keep: int
) -> list[list[Candidate]]:
    """The candidates that stay: at most `keep` of each budget, the best first, each part of a nested chain.

    Args:
        measured: by budget, its candidates and their losses now; nothing of one that has no candidates.
        members: of every budget: those without candidates have this one.
    """
    flat = [(b, c, loss) for b, candidates in enumerate(measured) for c, loss in candidates]
    flat += [(b, Candidate(0, members[b]), 1.0) for b, candidates in enumerate(measured) if not candidates]
    scores = np.full((len(measured), len(flat)), math.inf)
    for at, (budget, candidate, loss) in enumerate(flat):
        scores[budget, at] = math.log(max(LEAST, expected(candidate.loss, loss)))
    inside = np.array([[small.member <= large.member for _, small, _ in flat] for _, large, _ in flat])
    widths, shapes = [c.member.hidden for _, c, _ in flat], [c.member for _, c, _ in flat]
    kept = different_chains(scores, inside, keep, widths, shapes)
    return [
        [flat[at][1]._replace(loss=flat[at][2]) for at in places] if measured[budget] else []
        for budget, places in enumerate(kept)
    ]


def expected(before: float, now: float) -> float:
    """What a candidate is judged by: its loss, were it to gain once more what it gained since the last comparison.

    One that has lost since then is judged by its loss now: it will not go on to lose when it trains alone.

    Args:
        before: its loss then, nats per token; NaN where there was none, or it was not finite.
        now: its loss now; NaN counts as infinite.
    """
    if not math.isfinite(now):
        return 1e9
    return now * min(1.0, now / before) if 0 < before < math.inf else now
