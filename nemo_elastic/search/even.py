# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Even cuts: every free axis shrunk to about the same share of the parent (the uniform baseline of method §12)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.search.space import Space

#: A miss below this is not worth an uneven cut; above it, one percent of cost outweighs 0.2 of spread.
FREE_MISS, MISS_WEIGHT = 0.01, 20.0
#: members that are priced at once
BLOCK = 2**16


def uniform(space: Space, budget: Budget, upper: Subnet | None = None) -> Subnet:
    """The most even member of at most the budget: one width per axis, even where layers may differ.

    Of these members the one with the smallest spread (largest minus smallest share of the parent over the free
    axes, depth among them), plus 20 x the unused share of each limit beyond 1 %; ties go to the larger member.

    Args:
        space: where to look; every combination of choices is priced.
        budget: the limit.
        upper: the member that it must be nested in; None: the parent.

    Raises:
        ElasticError: nothing meets the budget (`Price.check`).
    """
    price, outer = space.price(budget), space.encode(upper or space.full)
    price.check()
    first = [space.positions(axis)[0] for axis in space.axes if space.positions(axis)]
    if budget.is_parent or not first:
        return space.full
    best, key = space.smallest, (np.inf, 0.0)
    for start in range(0, math.prod(space.even_shape), BLOCK):
        codes = space.even_codes(start, start + BLOCK)
        codes = codes[space.nested(codes, outer)]
        costs = price.each(codes)
        shares = space.shares[first, codes[:, first]]
        missed = MISS_WEIGHT * np.maximum(0, 1 - costs / price.target - FREE_MISS).sum(axis=1)
        # Rounded, so that equal spreads tie and the larger member wins on every machine.
        score = np.round(shares.max(axis=1) - shares.min(axis=1) + missed, 9)
        score[(costs > price.target).any(axis=1)] = np.inf
        for at in np.lexsort((-costs.sum(axis=1), score))[:1]:
            if (candidate := (score[at], -costs[at].sum())) < key:
                best, key = space.decode(codes[at]), candidate
    return best


def uniform_family(space: Space, budgets: Sequence[Budget]) -> dict[str, Subnet]:
    """Even cuts for all budgets, from the largest, each nested in the one before."""
    out: dict[str, Subnet] = {}
    upper = space.full
    for budget in budgets:
        out[budget.name] = upper = uniform(space, budget, upper)
    return out
