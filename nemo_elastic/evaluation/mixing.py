# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A choice of members against chance: what the same mean cost buys where members are drawn without looking.

n: prompts, m: members from the smallest to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: half-width of a 95 % interval, in standard errors
_WIDE = 1.96


def random_mix(costs: np.ndarray, quality_m: np.ndarray, cost: float) -> np.ndarray:
    """The best random mixture of fixed members at a mean cost: shares of each, [m].

    It lies on the upper hull of (cost, quality): no other lottery of members has more quality for that cost.

    Args:
        costs: of the members, rising.
        quality_m: mean quality of each; more is better.
        cost: from the first of the costs to the last.
    """
    best, shares = -np.inf, np.zeros(len(costs))
    for i in range(len(costs)):
        for j in range(i, len(costs)):
            if costs[i] <= cost <= costs[j]:
                part = 0.0 if i == j else (cost - costs[i]) / (costs[j] - costs[i])
                found = (1 - part) * quality_m[i] + part * quality_m[j]
                if found > best:
                    best, shares = found, np.zeros(len(costs))
                    shares[i] += 1 - part
                    shares[j] += part
    return shares


@dataclass(frozen=True)
class Against:
    """A choice against the best random mixture of the same mean cost, on the same prompts.

    Attributes:
        cost: mean cost of the members that were chosen.
        quality: mean quality of the choice.
        random: of the mixture, which knows how good every member is on these very prompts.
        gain: quality - random.
        wide: half-width of the gain's 95 % interval.
    """

    cost: float
    quality: float
    random: float
    gain: float
    wide: float


def against_random(
    chosen: np.ndarray, costs: np.ndarray, quality_nm: np.ndarray, groups: Sequence[int] | np.ndarray | None = None
) -> Against:
    """Compare a choice with chance.

    Args:
        chosen: member of each prompt, [n].
        costs: of the members, [m].
        quality_nm: of every member's answer to every prompt.
        groups: prompts of one group, such as a document, are not independent; by default each is its own.
    """
    cost = float(np.clip(costs[chosen].mean(), costs[0], costs[-1]))
    shares = random_mix(costs, quality_nm.mean(0), cost)
    own_n, random_n = quality_nm[np.arange(len(chosen)), chosen], quality_nm @ shares
    gain_n = own_n - random_n
    rest_n = gain_n - gain_n.mean()
    sums = rest_n if groups is None else np.bincount(np.unique(groups, return_inverse=True)[1], rest_n)
    error = float(np.sqrt((sums**2).sum())) / len(gain_n)
    return Against(cost, float(own_n.mean()), float(random_n.mean()), float(gain_n.mean()), _WIDE * error)
