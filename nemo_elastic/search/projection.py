# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Projection: a raw choice becomes a member that is nested in the next larger one and meets its budget.

A router's (or anyone's) choices miss their cost by up to 15 % and need not be nested (method §12). `fit` repairs a
code with the smallest departure: a weighted sum of squared changes of relative width, so that many small steps come
before one large one. It goes down to the budget, then up as far as there is room, then swaps pairs of steps to close
the gap. A choice that needs no repair was measured or learned as it is: nothing of it is swapped for the last percent
of a budget, and larger members go on holding it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet, intersect
from nemo_elastic.search.space import Price, Space

#: Relative miss that needs no further repair.
TOLERANCE = 0.002
#: What a relative miss is worth in departures: a swap that closes 1 % may cost as much as a third off one axis.
EXCHANGE = 10.0
#: A choice that lies no further below its budget is settled: what fits beside it is added, and nothing taken away.
SETTLED = 0.05
ROUNDS = 1000

#: the smallest and the largest entries that a code may have
Window = tuple[np.ndarray, np.ndarray]
#: a code and its cost by limit
Costed = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Projection:
    """A raw choice and the member made of it; costs in the budget's unit.

    Attributes:
        budget: name of the budget.
        raw: what was chosen; member: what it became.
        target: limit on the cost; raw_cost, cost: what the two cost.
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
        raw: what a router chose.
        budget: the limit; the parent's own budget gives the parent.
        upper: the next larger member, the parent when None.
        lower: a smaller choice that the member should hold; without effect where `upper` or the budget is too small.

    Returns:
        The member with the figures of before and after.

    Raises:
        ElasticError: nothing meets the budget, or `raw` or `upper` is not in the space.
    """
    price = space.price(budget)
    upper = upper or space.full
    nested = raw <= upper
    if budget.is_parent:
        member = space.full
    else:
        price.check()
        inside = raw if nested else intersect(raw, upper)
        held = None if lower is None or not lower <= upper or price(lower) > price.target else space.encode(lower)
        swaps = not (nested and _settled(price, raw))
        member = space.decode(fit(space, price, space.encode(inside), space.encode(upper), held, swaps=swaps))
    several = price.limits if len(price.limits) > 1 else ()
    limits = {x.limit.kind.field: {"target": x.target, "raw_cost": x(raw), "cost": x(member)} for x in several}
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
        if after is not None and raw[after.name] <= chosen and _settled(space.price(after), raw[after.name]):
            lower = raw[after.name]
        out[budget.name] = project(space, chosen, budget, upper, lower)
        upper = out[budget.name].member
    return out


def _settled(price: Price, raw: Subnet) -> bool:
    """Whether a choice meets its budget as it is."""
    return -SETTLED <= price.miss(price(raw)) <= 0


class _Departure:
    """Sum over axes of (share of the cost that the axis rules) x (mean relative change of its widths)^2.

    So axes share a large repair, and one layer thinned by a quarter is a finer step than all thinned by a tenth. A
    tenth of the same per layer is added, lest one layer take all.
    """

    def __init__(self, space: Space, price: Price, origin: np.ndarray) -> None:
        shares, self.rows = space.shares, np.arange(len(space.slots))
        self.table = np.abs(shares - shares[self.rows, origin][:, None])
        axes = [space.positions(a) for a in space.axes if space.positions(a)]
        self.means = np.zeros((len(self.rows), len(axes)))
        for column, slots in enumerate(axes):
            self.means[list(slots), column] = 1 / len(slots)
        self.weights = price.weights
        self.axis_weights = np.array([price.weights[list(slots)].sum() for slots in axes])

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Departures of codes, [n, slots] -> [n]."""
        moved = self.table[self.rows, codes]
        return (moved @ self.means) ** 2 @ self.axis_weights + 0.1 * (moved**2 @ self.weights)


def fit(
    space: Space,
    price: Price,
    code: Sequence[int],
    upper: Sequence[int],
    lower: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
    swaps: bool = True,
) -> tuple[int, ...]:
    """Repair a code: nested in `upper`, holding `lower`, cost at most the target and near it. Deterministic.

    Args:
        space: the space of the codes.
        price: the budget's price; the smallest code meets it (`Price.check`).
        code: where to start, and what to stay close to.
        upper: code that the result is nested in.
        lower: code that is nested in the result, itself nested in `upper` and within the target; None: the smallest.
        tolerance: relative miss at which to stop.
        swaps: also take something away so that something else fits, once nothing fits besides.

    Returns:
        The repaired code.
    """
    top = np.asarray(upper, dtype=np.int64)
    bottom = space.sizes - 1
    if lower is not None:
        bottom = np.where(space.active(lower), np.asarray(lower, dtype=np.int64), bottom)
    origin = np.clip(np.asarray(code, dtype=np.int64), top, np.maximum(bottom, top))
    if not len(origin):
        return ()
    window = (top, bottom)
    departure = _Departure(space, price, origin)
    now, cost = origin.copy(), price.each(origin)[0]
    for _ in range(ROUNDS):  # down to the budget
        if cost.max() <= price.target:
            break
        codes = _steps(space, now, window, down=True)
        costs = price.each(codes)
        useful = (np.maximum(cost, price.target) - np.maximum(costs, price.target)).sum(axis=1)
        paid = departure(codes) - departure(now[None])[0]
        now, cost = _pick(codes, costs, np.where(useful > 0, paid / np.maximum(useful, 1e-9), np.inf))
    for _ in range(ROUNDS):  # up as far as there is room, else one slot down with one up
        if (-price.miss(cost) <= tolerance).all():
            break
        moved = _grow(space, price, now, window, cost, departure)
        if moved is None and swaps:
            moved = _swap(space, price, now, window, cost, departure, tolerance)
        if moved is None:
            break
        now, cost = moved
    return tuple(int(i) for i in now)


def _pick(codes: np.ndarray, costs: np.ndarray, ratio: np.ndarray) -> Costed:
    """The best ratio; where ratios tie to nine digits, the larger member, then the first slot."""
    scale = np.max(np.abs(ratio[np.isfinite(ratio)]), initial=0) or 1.0
    at = np.lexsort((np.arange(len(codes)), -costs.sum(axis=1), np.round(ratio / scale, 9)))[0]
    return codes[at], costs[at]


def _steps(space: Space, now: np.ndarray, window: Window, down: bool) -> np.ndarray:
    """All codes that differ from `now` in one active slot, towards smaller or larger widths within the window."""
    slots, choices = space.steps
    top, bottom = window
    allowed = (choices >= top[slots]) & (choices <= bottom[slots])
    allowed &= choices > now[slots] if down else choices < now[slots]
    allowed &= space.active(now)[slots]
    slots, choices = slots[allowed], choices[allowed]
    codes = np.repeat(now[None], len(slots), axis=0)
    codes[np.arange(len(slots)), slots] = choices
    return codes


def _grow(
    space: Space, price: Price, now: np.ndarray, window: Window, cost: np.ndarray, departure: _Departure
) -> Costed | None:
    """The single step up that fits and departs least per unit of cost."""
    codes = _steps(space, now, window, down=False)
    if not len(codes):
        return None
    costs = price.each(codes)
    added = (costs - cost).sum(axis=1)
    fits = (costs <= price.target).all(axis=1) & (added > 0)
    if not fits.any():
        return None
    paid = departure(codes) - departure(now[None])[0]
    return _pick(codes, costs, np.where(fits, paid / np.maximum(added, 1e-9), np.inf))


def _swap(
    space: Space,
    price: Price,
    now: np.ndarray,
    window: Window,
    cost: np.ndarray,
    departure: _Departure,
    tolerance: float,
    tried: int = 256,
) -> Costed | None:
    """The cheapest pair (one slot down, one up) that closes at least half of the gap that pairs can close."""
    downs, ups = _steps(space, now, window, down=True), _steps(space, now, window, down=False)
    if not len(downs) or not len(ups):
        return None
    room = price.target - cost
    # Steps of different layers add up exactly; the others only nearly, so the promising pairs are priced again.
    sums = (price.each(downs) - cost)[:, None] + (price.each(ups) - cost)[None]  # [downs, ups, limits]
    near = np.where((sums.sum(-1) > 0) & (sums <= room * 1.2).all(-1), np.abs(room - sums).sum(-1), np.inf)
    order = np.argsort(near, axis=None, kind="stable")[:tried]
    order = order[np.isfinite(near.reshape(-1)[order])]
    if not len(order):
        return None
    d, u = np.unravel_index(order, near.shape)
    codes = np.where(downs[d] != now, downs[d], ups[u])
    costs = price.each(codes)
    gain = (costs - cost).sum(axis=1) / price.target
    paid = departure(codes) - departure(now[None])[0]
    good = (costs <= price.target).all(axis=1) & (gain > 0) & (paid <= EXCHANGE * gain)
    if not good.any():
        return None
    reach = min(float(gain[good].max()), np.maximum(room / price.target - tolerance, 0.0).sum()) / 2
    good &= gain >= reach
    return _pick(codes, costs, np.where(good, paid, np.inf))
