# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which member answers, from signals and a dial of cost: fitted on prompts whose answers are known.

Each climb from a member to the next larger one has a line: how much better the larger one is expected to be, given
the signals. A member's worth is the sum of the climbs up to it, less a price times its cost; the member of the
greatest worth answers. The price is what the dial turns: on the prompts of the calibration, the mean cost is what the
dial says.

n: prompts, s: signals, m: members from the smallest to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from nemo_elastic.core.dial import check_cost
from nemo_elastic.errors import ElasticError, bad

#: of the dial: prices are kept for its hundredths
STEPS = 100
#: pulls weights of standardised signals towards zero, as a share of the number of prompts
RIDGE = 1e-3
#: signals further from their mean, in standard deviations, count as this far: a line ends where nothing was seen
FAR = 4.0
#: a line has as many numbers as there are signals, and one; fewer prompts would fit it by chance
LEAST = 32
#: halvings of the interval in which a price lies
_HALVINGS = 30


@dataclass(frozen=True)
class Calibration:
    """What `fit` found.

    Attributes:
        members: names, from the smallest to the largest.
        parameters: of each.
        means: of each signal, over the prompts of the calibration.
        spreads: their standard deviations; 1 where a signal was the same for all.
        climbs: from each member to the next: a constant, and a weight for each standardised signal.
        prices: at 0, 1/100, …, 1 of the dial; none greater than the one before it.
    """

    members: tuple[str, ...]
    parameters: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    climbs: tuple[tuple[float, ...], ...]
    prices: tuple[float, ...]

    @property
    def costs(self) -> np.ndarray:
        """Cost of each member, [m]: 0 of the smallest, 1 of the largest, by parameters between them."""
        return shares(self.parameters)

    def gains(self, signals_ns: np.ndarray) -> np.ndarray:
        """How much better than the smallest each member is expected to be, [n, m], in what quality was measured in."""
        return _gains(signals_ns, self.means, self.spreads, self.climbs)

    def choose(self, signals_ns: np.ndarray, cost: float) -> np.ndarray:
        """Who answers each prompt.

        Args:
            signals_ns: as `signals.signals` gives them.
            cost: the dial: 0 is always the smallest, 1 always the largest, between them the mean cost over prompts
                like those of the calibration.

        Returns:
            Positions in `members`, [n].

        Raises:
            ElasticError: `cost` is no number from 0 to 1.
        """
        check_cost(cost)
        if cost in (0, 1):
            return np.full(len(signals_ns), int(cost) * (len(self.members) - 1))
        price = float(np.interp(cost, np.linspace(0, 1, STEPS + 1), self.prices))
        return worthiest(self.gains(signals_ns), self.costs, price)


def shares(parameters: Sequence[int]) -> np.ndarray:
    """Costs of members from the smallest to the largest, [m]: 0 to 1."""
    counts = np.asarray(parameters, dtype=float)
    return (counts - counts[0]) / (counts[-1] - counts[0])


def fit(
    signals_ns: np.ndarray, quality_nm: np.ndarray, members: Sequence[str], parameters: Sequence[int]
) -> Calibration:
    """Find how signals tell what a larger member would gain, and the price of each dial.

    Args:
        signals_ns: of prompts.
        quality_nm: how good each member's answer is, in any unit; more is better.
        members: names, from the smallest to the largest.
        parameters: of each.

    Raises:
        ElasticError: one member, members that are not in that order, too few prompts, or numbers that are not finite.
    """
    if len(members) < 2 or any(b <= a for a, b in pairwise(parameters)):
        raise ElasticError("calibrate: needs a family of at least two members, each smaller than the one before it")
    if len(signals_ns) < LEAST:
        raise bad("samples", len(signals_ns), f"at least {LEAST} prompts")
    if not (np.isfinite(signals_ns).all() and np.isfinite(quality_nm).all()):
        raise ElasticError("calibrate: a member gives infinities or NaN; nemo-elastic verify finds damage")
    means, spreads = signals_ns.mean(0), signals_ns.std(0)
    spreads = np.where(spreads > 1e-9 * (1 + np.abs(means)), spreads, 1.0)
    z_ns = _standard(signals_ns, means, spreads)
    pull = RIDGE * len(z_ns) * np.diag([0.0] + [1.0] * (z_ns.shape[1] - 1))
    climbs = np.linalg.solve(z_ns.T @ z_ns + pull, z_ns.T @ np.diff(quality_nm, axis=1)).T
    gains_nm, costs = _gains(signals_ns, means, spreads, climbs), shares(parameters)
    prices = [price_of(gains_nm, costs, dial / STEPS) for dial in range(STEPS + 1)]
    return Calibration(
        tuple(members), tuple(parameters), tuple(means.tolist()), tuple(spreads.tolist()),
        tuple(tuple(climb) for climb in climbs.tolist()), tuple(np.minimum.accumulate(prices).tolist()),
    )  # fmt: skip


def _standard(signals_ns: np.ndarray, means: ArrayLike, spreads: ArrayLike) -> np.ndarray:
    """A one, for the constant, and the standardised signals, [n, 1 + s]."""
    z_ns = (np.asarray(signals_ns, dtype=float) - np.asarray(means)) / np.asarray(spreads)
    return np.concatenate([np.ones((len(z_ns), 1)), z_ns.clip(-FAR, FAR)], axis=1)


def _gains(signals_ns: np.ndarray, means: ArrayLike, spreads: ArrayLike, climbs: ArrayLike) -> np.ndarray:
    climbs_n = _standard(signals_ns, means, spreads) @ np.asarray(climbs).T
    return np.concatenate([np.zeros((len(climbs_n), 1)), climbs_n.cumsum(1)], axis=1)


def worthiest(gains_nm: np.ndarray, costs: np.ndarray, price: float) -> np.ndarray:
    """The member of the greatest worth; of equals the smaller."""
    return (gains_nm - price * costs).argmax(1)


def price_of(gains_nm: np.ndarray, costs: np.ndarray, dial: float) -> float:
    """The least price, to a rounding, at which the mean cost is no more than the dial says."""
    steepest = np.abs(np.diff(gains_nm, axis=1) / np.diff(costs)).max() + 1.0
    low, high = -steepest, steepest  # at which all are the largest, and the smallest
    if dial >= 1:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if costs[worthiest(gains_nm, costs, middle)].mean() > dial:
            low = middle
        else:
            high = middle
    return high
