# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Projection: a raw choice becomes a member that is nested in the next larger one and meets its budget.

A router's (or anyone's) choices miss their cost by up to 15 % and need not be nested (method §12). They are repaired
with the smallest departure: a weighted sum of squared changes of relative width, so that many small changes come
before one large one. Of members with one width per axis the nearest of the fullest is taken; where layers have their
own, `fit` goes down to the budget step by step, then up while there is room. A choice that meets its budget nearly was
measured or learned as it is: it only grows, and stays nested in larger members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet, intersect
from nemo_elastic.search.fullest import fullest
from nemo_elastic.search.space import Code, Price, Space

#: Departure that a relative miss is worth: to close 1 % of a budget may cost as much as a third off one axis.
MISS_PRICE = 10.0
#: A choice that lies no further below its budget is near it: what fits beside it is added, and nothing taken away.
NEAR = 0.05


@dataclass(frozen=True)
class Projection:
    """A raw choice and the member made of it; costs in the budget's unit.

    Attributes:
        budget: name of the budget.
        raw: the chosen shape; member: its projection.
        target: limit on the cost; raw_cost, cost: costs of `raw` and `member`.
        nested: the raw choice already lay inside the next larger member.
        limits: of several limits, each one's field -> its target, raw_cost and cost; the others are then shares.
    """

    budget: str
    raw: Subnet
    member: Subnet
    target: float
    raw_cost: float
    cost: float
    nested: bool
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def raw_miss(self) -> float:
        """Relative miss of the raw choice: above zero where it is too large."""
        return self.raw_cost / self.target - 1

    @property
    def miss(self) -> float:
        """Relative miss of the member, never above zero."""
        return self.cost / self.target - 1

    def to_json(self) -> dict[str, Any]:
        """Figures for a log; members as Subnet JSON."""
        return {
            "budget": self.budget,
            "target": self.target,
            "raw_cost": self.raw_cost,
            "raw_miss": self.raw_miss,
            "cost": self.cost,
            "miss": self.miss,
            "nested": self.nested,
            "raw": self.raw.to_json(),
            "member": self.member.to_json(),
        } | ({"limits": self.limits} if self.limits else {})


def project(
    space: Space, raw: Subnet, budget: Budget, upper: Subnet | None = None, lower: Subnet | None = None
) -> Projection:
    """Make a raw choice nested in `upper` and bring its cost to at most the budget and as near below it as pays.

    Args:
        space: choices that the result may make; `raw` and `upper` lie in it.
        raw: the router's choice.
        budget: the limit; the parent's budget gives the parent.
        upper: the next larger member, the parent when None.
        lower: a smaller choice that the member should contain; without effect where `upper` or the budget is too
            small.

    Returns:
        The member with the figures of before and after.

    Raises:
        ElasticError: nothing meets the budget, or `raw` or `upper` is not in the space.
    """
    price, upper = space.price(budget), upper or space.full
    nested = raw <= upper
    if budget.is_parent:
        member = space.full
    else:
        price.check()
        if nested and _is_near(price, raw):
            lower = raw
        elif lower is None or not lower <= upper or price(lower) > price.target:
            lower = space.smallest
        inside, outer, inner = (space.encode(m) for m in (intersect(raw, upper), upper, lower))
        pool = fullest(space, budget, outer) if space.is_even else None
        fitted = (
            fit(space, price, inside, outer, inner) if pool is None else _nearest(space, price, inside, inner, pool)
        )
        member = space.decode(fitted)
    several = price.limits if len(price.limits) > 1 else ()
    limits = {x.limit.field: {"target": x.target, "raw_cost": x(raw), "cost": x(member)} for x in several}
    return Projection(budget.name, raw, member, price.target, price(raw), price(member), nested, limits)


def project_family(space: Space, raw: Mapping[str, Subnet], budgets: Sequence[Budget]) -> dict[str, Projection]:
    """Project the choices of all budgets, largest first: every member is nested in the one before.

    Choices that meet their budgets and are nested already are only added to.

    Args:
        space: choices that members may make.
        raw: budget name -> raw choice; the parent's may be missing.
        budgets: all budgets in descending order (`ElasticConfig.budgets`).
    """
    out: dict[str, Projection] = {}
    upper = space.full
    for budget, after in zip(budgets, [*budgets[1:], None], strict=True):
        chosen = space.full if budget.is_parent else raw[budget.name]
        lower = None
        if after is not None and raw[after.name] <= chosen and _is_near(space.price(after), raw[after.name]):
            lower = raw[after.name]
        out[budget.name] = project(space, chosen, budget, upper, lower)
        upper = out[budget.name].member
    return out


def _is_near(price: Price, raw: Subnet) -> bool:
    """Whether a choice meets its budget as it is."""
    return -NEAR <= price.miss(price(raw)) <= 0


def departure(space: Space, price: Price, origin: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sum over axes of (share of the cost that the axis rules) x (mean relative change of its widths)^2, [n].

    So axes share a large repair, and one layer thinned by a quarter is a finer step than all thinned by a tenth. A
    tenth of the same per layer is added, lest one layer take all.
    """
    rows = np.arange(len(space.slots))
    moved = np.abs(space.shares[rows, codes] - space.shares[rows, origin])
    total = 0.1 * (moved**2 @ price.weights)
    for slots in (list(space.positions(axis)) for axis in space.axes if space.positions(axis)):
        total += price.weights[slots].sum() * moved[:, slots].mean(axis=1) ** 2
    return total


def _nearest(space: Space, price: Price, code: Code, inner: Code, pool: np.ndarray) -> Code:
    """The member of a pool that holds `inner`, departs little from a code and leaves little of each limit."""
    pool = pool[space.nested(inner, pool)]
    costs = price.each(pool)
    origin = np.asarray(code, dtype=np.int64)
    paid = departure(space, price, origin, pool) + MISS_PRICE * (1 - costs / price.target).sum(axis=1)
    return _code(pool[_best(costs, paid)])


def fit(space: Space, price: Price, code: Code, outer: Code, inner: Code) -> Code:
    """Repair a code step by step: nested in `outer`, holding `inner`, within the budget and near it. Deterministic.

    Args:
        space: the space of the codes.
        price: the budget's price; `inner` meets it.
        code: where to start, and what to stay close to.
        outer: code that the result is nested in; inner: code that is nested in the result, itself nested in `outer`.
    """
    top = np.asarray(outer, dtype=np.int64)
    bottom = np.where(space.active(inner), np.asarray(inner, dtype=np.int64), space.sizes - 1)
    origin = np.clip(np.asarray(code, dtype=np.int64), top, np.maximum(bottom, top))
    now = origin
    while True:
        cost = price.each(now)[0]
        down = bool((cost > price.target).any())
        codes = _steps(space, now, top, bottom, down)
        costs = price.each(codes)
        if down:
            gained = (np.maximum(cost, price.target) - np.maximum(costs, price.target)).sum(axis=1)
        else:
            gained = (costs - cost).sum(axis=1)
            fits = (costs <= price.target).all(axis=1) & (gained > 0)
            if not fits.any():
                return _code(now)
            codes, costs, gained = codes[fits], costs[fits], gained[fits]
        paid = departure(space, price, origin, codes) - departure(space, price, origin, now[None])
        now = codes[_best(costs, np.where(gained > 0, paid / np.maximum(gained, 1e-9), np.inf))]


def _code(code: np.ndarray) -> Code:
    return tuple(int(i) for i in code)


def _best(costs: np.ndarray, paid: np.ndarray) -> int:
    """Position of the smallest `paid`; of those that agree in nine digits, of the largest member, then the first.

    Args:
        costs: of each candidate by limit, [n, limits], see `Price.each`.
        paid: of each candidate, [n]: its departure plus the price of its misses, or its departure per cost gained.
    """
    scale = np.max(np.abs(paid[np.isfinite(paid)]), initial=0) or 1.0
    return int(np.lexsort((-costs.sum(axis=1), np.round(paid / scale, 9)))[0])


def _steps(space: Space, now: np.ndarray, top: np.ndarray, bottom: np.ndarray, down: bool) -> np.ndarray:
    """All codes that differ from `now` in one active slot, towards smaller or larger widths from `top` to `bottom`."""
    active = np.flatnonzero(space.active(now))
    ranges = [(s, range(now[s] + 1, bottom[s] + 1) if down else range(top[s], now[s])) for s in active]
    steps = [(s, i) for s, choices in ranges for i in choices]
    codes = np.repeat(now[None], len(steps), axis=0)
    for code, (s, i) in zip(codes, steps, strict=True):
        code[s] = i
    return codes
