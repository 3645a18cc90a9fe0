# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Even cuts: every free axis shrunk to about the same share of the parent (the uniform baseline of method §12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.search.space import LimitPrice, Space

#: A miss below this is not worth an uneven cut; above it, one percent of cost outweighs 0.2 of spread.
FREE_MISS, MISS_WEIGHT = 0.01, 20.0


def uniform(
    space: Space, budget: Budget, upper: Subnet | None = None, fixed: Mapping[str, int] | None = None
) -> Subnet:
    """The most even member of at most the budget: one width per axis, even where layers may differ.

    Of all such members the one with the smallest spread (largest minus smallest share of the parent over the free
    axes, depth among them), plus 20 x what it leaves of each limit beyond 1 %; ties go to the larger member.

    Args:
        space: where to look; every combination of choices is priced.
        budget: the limit.
        upper: the member that it must be nested in; None: the parent.
        fixed: axis -> width that is given; these axes do not count for the spread.

    Raises:
        ElasticError: nothing meets the budget (`Price.check`), or a fixed width is no choice.
    """
    price = space.price(budget)
    if budget.is_parent:
        return space.full
    price.check()
    code = _best(space, budget, space.encode(upper or space.full), fixed or {})
    if code is None:  # the fixed widths alone are too much
        code = _best(space, budget, space.encode(upper or space.full), {})
    assert code is not None  # the smallest member is always there
    return space.decode(code)


def uniform_family(space: Space, budgets: Sequence[Budget]) -> dict[str, Subnet]:
    """Even cuts for all budgets, from the largest, each nested in the one before."""
    out: dict[str, Subnet] = {}
    upper = space.full
    for budget in budgets:
        out[budget.name] = upper = uniform(space, budget, upper)
    return out


def _best(space: Space, budget: Budget, upper: Sequence[int], fixed: Mapping[str, int]) -> tuple[int, ...] | None:
    price = space.price(budget)
    active = space.active(upper)
    allowed: dict[str, list[int]] = {}
    for axis in space.axes:
        least = max((upper[s] for s in space.positions(axis) if active[s]), default=0)
        indices = list(range(least, len(space.choices[axis])))
        if axis in fixed:
            indices = [i for i in indices if space.choices[axis][i] == fixed[axis]] or indices[:1]
        allowed[axis] = indices
    counting = [a for a in space.axes if len(space.choices[a]) > 1 and a not in fixed]
    share = {a: np.array([space.choices[a][i] for i in allowed[a]]) / space.choices[a][0] for a in space.axes}
    inner = [a for a in space.axes if a not in (HIDDEN, DEPTH)]

    def along(axis: str, values: np.ndarray) -> np.ndarray:
        return values.reshape([-1 if a == axis else 1 for a in inner])

    low, high = np.full((1,) * len(inner), np.inf), np.full((1,) * len(inner), -np.inf)
    for axis in inner:
        if axis in counting:
            low, high = np.minimum(low, along(axis, share[axis])), np.maximum(high, along(axis, share[axis]))
    best: tuple[float, float] | None = None
    found_code: dict[str, int] = {}
    for j, h in enumerate(allowed[HIDDEN]):
        for k, d in enumerate(allowed[DEPTH]):
            costs = [
                _costs(space, limit, h, d, {a: allowed[a] for a in inner}) / unit
                for limit, unit in zip(price.limits, price.units, strict=True)
            ]
            outer = [share[a][i] for a, i in ((HIDDEN, j), (DEPTH, k)) if a in counting]
            spread = np.maximum(high, max(outer, default=-np.inf)) - np.minimum(low, min(outer, default=np.inf))
            spread = np.where(np.isfinite(spread), spread, 0.0)
            missed = sum(MISS_WEIGHT * np.maximum(0, 1 - cost / price.target - FREE_MISS) for cost in costs)
            score = np.where(np.maximum.reduce(costs) <= price.target, spread + missed, np.inf)
            score, cost = np.broadcast_arrays(score, sum(costs))
            # Rounded, so that equal spreads tie and the larger member wins on every machine.
            at = np.lexsort((-cost.reshape(-1), np.round(score.reshape(-1), 9)))[0]
            key = (float(np.round(score.reshape(-1)[at], 9)), -float(cost.reshape(-1)[at]))
            if np.isfinite(key[0]) and (best is None or key < best):
                best = key
                where = np.unravel_index(at, score.shape)
                found_code = {a: allowed[a][int(i)] for a, i in zip(inner, where, strict=True)}
                found_code |= {HIDDEN: h, DEPTH: d}
    return tuple(found_code[s.axis] for s in space.slots) if best is not None else None


def _costs(
    space: Space, price: LimitPrice, hidden: int, depth: int, allowed: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Cost under a limit of all allowed choices of the other axes, each a dimension, at one of hidden and of depth."""
    cost = np.full((1,) * len(allowed), price.base[hidden])
    for name, table in price.tables.items():
        axes = space.parent.kind(price.kind(name)).widths
        part = table[hidden][np.ix_(*(allowed[a] for a in axes))]
        shape = [len(choices) if a in axes else 1 for a, choices in allowed.items()]
        number = int(np.count_nonzero(space.kept[depth, price.layers[name]]))
        cost = cost + number * part.reshape(shape)
    return cost
