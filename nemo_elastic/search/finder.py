# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Search for shapes over untrained losses (method §12: a good shape is worth about twice the tokens).

The candidates are the fullest members of every budget (`fullest_chains`). A shape is at least as bad as a larger one
that holds it, so known losses bound the others. The candidate of the most promising chain is measured next, until no
chain can beat the best one found. Where widths differ per layer, a quarter of the candidates is for that, and
the rest for variations of the best chain, layer by layer.

Of all that was measured, the nested chain with the smallest product of losses wins: no member buys a little with a lot
of another's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer
from nemo_elastic.search.chains import through
from nemo_elastic.search.even import uniform_family
from nemo_elastic.search.fullest import fullest_chains
from nemo_elastic.search.measured import NOISE, Measured, Trial
from nemo_elastic.search.space import Space
from nemo_elastic.search.varying import vary


@dataclass(frozen=True)
class SearchResult:
    """Members of all budgets, nested, each at most its budget.

    Attributes:
        members: budget name -> member, the parent's among them.
        losses: budget name -> its loss; NaN of a member that was not measured, as the parent's.
        trace: every measurement in order.
    """

    members: dict[str, Subnet]
    losses: dict[str, float]
    trace: list[Trial]

    def to_json(self) -> dict[str, Any]:
        """Members as Subnet JSON, losses (null where not measured or not finite), and the trace without members."""
        return {
            "members": {name: member.to_json() for name, member in self.members.items()},
            "losses": {name: _json(loss) for name, loss in self.losses.items()},
            "trace": [
                {"number": t.number, "budget": t.budget, "origin": t.origin, "cost": t.cost, "loss": _json(t.loss)}
                for t in self.trace
            ],
        }


def search(
    space: Space,
    budgets: Sequence[Budget],
    loss: Callable[[Subnet], float],
    candidates: int = 256,
    seed: int = 0,
    progress: Callable[[int, int, Trial], None] | None = None,
    start: Subnet | None = None,
) -> SearchResult:
    """Find members with a low loss, nested in each other, each at most its budget.

    The same arguments and the same losses give the same result. On several ranks every rank runs the search, and
    `loss` must return the same number on all of them.

    Args:
        space: choices that members may make.
        budgets: in descending order, as in `ElasticConfig.budgets`.
        loss: loss of an untrained member, at least 0, lower is better (a distillation loss: 0 is the parent). Called
            at most once per member. NaN counts as infinite.
        candidates: how many times `loss` may be called in all; it is called less often where nothing else can win.
        seed: of the variations, where widths differ per layer.
        progress: called after every measurement with (number, candidates, trial).
        start: a shape of the space to measure before all others. With a single budget that it meets, what is found is
            never worse.

    Raises:
        ElasticError: a budget that no member meets, or that is not below the one before, or a start outside of the
            space; nothing was measured then.
    """
    integer("elastic.search.candidates", candidates, 1, "at least 1")
    integer("seed", seed, 0, "an integer of at least 0")
    space.check_budgets(budgets)
    wanted = [b for b in budgets if not b.is_parent]
    _check_order(space, wanted)
    measured = Measured(space, wanted, loss, candidates, progress)
    members = {b.name: space.full for b in budgets}
    if wanted:
        even = uniform_family(space, wanted)
        if start is not None:
            measured.measure(space.encode(start), wanted[0], "start")
        for budget in wanted:
            measured.measure(space.encode(even[budget.name]), budget, "even")
        codes = fullest_chains(space, wanted)
        if codes is not None:
            _measure_fullest(measured, codes)
        if codes is None or not space.is_even:
            vary(measured, np.random.default_rng(seed))
        chain = measured.best_chain()
        found = even.values() if chain is None else map(space.decode, chain)
        members |= dict(zip(even, found, strict=True))
    losses = {name: measured.known.get(member, math.nan) for name, member in members.items()}
    return SearchResult(members, losses, measured.trace)


def _check_order(space: Space, budgets: Sequence[Budget]) -> None:
    shares = [space.price(b).target / space.price(b).whole for b in budgets]
    for b, share, before in zip(budgets[1:], shares[1:], shares, strict=False):
        if share > before:
            raise bad(
                f"elastic.budgets[{b.name}]",
                f"{share:.4g} of the parent",
                f"below {before:.4g}, the share of the budget before it",
            )


def _measure_fullest(measured: Measured, fullest: np.ndarray) -> None:
    """Measure candidates, those of the most promising chain first.

    A loss that is not known is taken as that of the worst larger member that holds it. It ends when no chain with one
    can beat the best chain's sum of scores.
    """
    space = measured.space
    codes = np.concatenate([np.array(measured.codes), fullest])
    members = [space.decode(code) for code in codes]
    misses, inside = measured.relations(codes)
    for _ in range(measured.left if space.is_even else measured.left // 4):
        scores = measured.scores(members)
        known, finite = ~np.isnan(scores), np.isfinite(scores)
        least = np.where(inside & finite[:, None], scores[:, None], -math.inf).max(axis=0, initial=math.log(NOISE))
        hoped = np.where(misses <= 0, np.where(known, scores, least), math.inf)
        best = through(np.where(known, hoped, math.inf), inside).min()
        sums = np.where(known, math.inf, through(hoped, inside))
        if not sums.min() < best:
            return
        budget, at = np.unravel_index(sums.argmin(), sums.shape)
        measured.measure(codes[at], measured.budgets[int(budget)], "fullest")


def _json(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
