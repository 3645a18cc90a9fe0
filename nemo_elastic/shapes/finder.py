# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Search for shapes over untrained losses (method §12: a good shape is worth about twice the tokens).

For every budget from the largest to the smallest, starting at the member before, so that all are nested:
1. Descent. A step shrinks one axis, or one group of layers of it. The step that costs the least loss per unit of
   cost is taken; steps keep the figure of their last measurement and only the leader is measured again (lazy greedy).
2. Structured guesses: the most even cut, and for every depth the most even cut of the rest, with Mamba left whole and
   with Mamba cut too.
3. Refinement. Changes of the best candidates are judged by a draw from a small regression (`surrogate`), and the
   winner is measured.

Every candidate is first fitted to the budget and into the larger member, so losses compare at equal cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_elastic.config import Budget, integer
from nemo_elastic.errors import ElasticError
from nemo_elastic.family import DEPTH, MAMBA_HEAD_DIM, MAMBA_HEADS, Subnet
from nemo_elastic.shapes.even import uniform
from nemo_elastic.shapes.price import Price
from nemo_elastic.shapes.projection import fit
from nemo_elastic.shapes.space import Code, Space
from nemo_elastic.shapes.surrogate import Surrogate, layer_groups

#: descent steps that a budget's cut is divided in; shares of its candidates for the descent and for guesses
STEPS, DESCENT, GUESSES = 8, 0.45, 0.25
#: best candidates that are varied, and variations judged before one is measured
ELITE, POOL = 6, 32


@dataclass(frozen=True)
class Trial:
    """One measured candidate.

    Attributes:
        number: counts from 1.
        budget: name of the budget that it was tried for.
        origin: parent, descent, even, depth or refine.
        cost: in the budget's unit; loss: what the callable returned.
        member: what was measured.
    """

    number: int
    budget: str
    origin: str
    cost: float
    loss: float
    member: Subnet


@dataclass(frozen=True)
class SearchResult:
    """Members of all budgets, nested, each at most its budget.

    Attributes:
        members: budget name -> member, the parent's among them.
        losses: budget name -> its loss; NaN for a member that there was no candidate left to measure.
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
) -> SearchResult:
    """Find members with a low loss, nested in each other, each at most its budget.

    The same arguments and the same losses give the same result. On several ranks every rank runs the search, and
    `loss` must return the same number on all of them.

    Args:
        space: choices that members may make.
        budgets: in descending order, as in `ElasticConfig.budgets`.
        loss: loss of an untrained member, lower is better; called at most once per member. NaN counts as infinite.
        candidates: how many times `loss` may be called in all.
        seed: of the refinement's draws.
        progress: called after every measurement with (number, candidates, trial).

    Raises:
        ElasticError: a budget that no member meets, or that is above the one before; nothing has been measured then.
    """
    integer("elastic.search.candidates", candidates, 1, "at least 1")
    integer("seed", seed, 0, "an integer of at least 0")
    space.check_budgets(budgets)
    run = _Search(space, loss, candidates, np.random.default_rng(seed), progress)
    members: dict[str, Subnet] = {}
    losses: dict[str, float] = {}
    code: Code = (0,) * len(space.slots)
    routed = [b for b in budgets if not b.is_parent]
    for budget in budgets:
        if budget.is_parent:
            losses[budget.name] = _value(run.measure(code, budget.name, "parent"))
        else:
            code = run.member(budget, code, run.left // (len(routed) - routed.index(budget)))
            losses[budget.name] = _value(run.known.get(space.decode(code)))
        members[budget.name] = space.decode(code)
    return SearchResult(members, losses, run.trace)


class _Search:
    def __init__(
        self,
        space: Space,
        loss: Callable[[Subnet], float],
        candidates: int,
        rng: np.random.Generator,
        progress: Callable[[int, int, Trial], None] | None,
    ) -> None:
        self.space, self.loss, self.candidates, self.rng, self.progress = space, loss, candidates, rng, progress
        self.groups = layer_groups(space)
        self.known: dict[Subnet, float] = {}
        self.tried: list[tuple[Code, float]] = []
        self.trace: list[Trial] = []
        self.ratios: dict[int, float] = {}  # group -> loss per unit of cost when it was last measured
        self.surrogate = Surrogate(space, self.groups)

    @property
    def left(self) -> int:
        return self.candidates - len(self.trace)

    def measure(self, code: Code, budget: str, origin: str, price: Price | None = None) -> float | None:
        """The loss of a code; None when no candidate is left. Members seen before are free."""
        member = self.space.decode(code)
        if member in self.known:
            return self.known[member]
        if self.left < 1:
            return None
        value = float(self.loss(member))
        value = math.inf if math.isnan(value) else value
        self.known[member] = value
        self.tried.append((code, value))
        cost = price(member) if price is not None else math.nan
        self.trace.append(Trial(len(self.trace) + 1, budget, origin, cost, value, member))
        if self.progress is not None:
            self.progress(len(self.trace), self.candidates, self.trace[-1])
        return value

    def member(self, budget: Budget, upper: Code, allowance: int) -> Code:
        """The best code found for a budget inside `upper` with about `allowance` measurements."""
        price = self.space.price(budget)
        if self.known and price.target > price.codes(np.array(upper))[0] * (1 + 1e-9) and upper != (0,) * len(upper):
            raise ElasticError(f"elastic.budgets[{budget.name}]: above the budget before it; order them descending")
        end = len(self.trace) + allowance
        arrived = self._descend(budget.name, price, upper, len(self.trace) + round(DESCENT * allowance))
        for origin, code in self._guesses(
            budget, price, upper, min(end, len(self.trace) + round(GUESSES * allowance))
        ):
            self.measure(code, budget.name, origin, price)
        while len(self.trace) < end and self._refine(budget.name, price, upper):
            pass
        best = self._elite(price, upper, 1)
        return best[0][0] if best else arrived

    def _fit(self, price: Price, code: np.ndarray, upper: Code) -> Code:
        return fit(self.space, price, tuple(int(i) for i in code), upper)

    def _descend(self, name: str, price: Price, upper: Code, end: int) -> Code:
        """Lazy greedy from `upper` down to the budget; without candidates left it goes on by the last figures."""
        now = np.array(upper)
        start = cost = float(price.codes(now)[0])
        stride = max((start - price.target) / STEPS, 0.0)
        here = self.measure(upper, name, "descent", price)
        while cost > price.target:
            fresh: dict[int, tuple[np.ndarray, float | None]] = {}
            while True:
                group = min((g for g in range(len(self.groups)) if self._can(now, g)),
                            key=lambda g: (self.ratios.get(g, -math.inf), g))  # fmt: skip
                child, at = fresh.get(group) or self._child(name, price, now, upper, group, stride, end)
                if group in fresh or at is None or here is None:
                    break
                fresh[group] = child, at
                removed = (cost - price.codes(child)[0]) / price.whole
                self.ratios[group] = (at - here) / max(removed, 1e-9)
            now, here = child, at
            cost = float(price.codes(now)[0])
        return self._fit(price, now, upper)

    def _can(self, now: np.ndarray, group: int) -> bool:
        active = self.space.active(now)
        return any(active[s] and now[s] < self.space.sizes[s] - 1 for s in self.groups[group])

    def _child(
        self, name: str, price: Price, now: np.ndarray, upper: Code, group: int, stride: float, end: int
    ) -> tuple[np.ndarray, float | None]:
        """`now` with one group shrunk until a stride of cost is gone, and its loss where it may be measured."""
        slots, child, cost = list(self.groups[group]), now.copy(), price.codes(now)[0]
        while self._can(child, group):
            child[slots] = np.minimum(child[slots] + 1, self.space.sizes[slots] - 1)
            if cost - price.codes(child)[0] >= stride:
                break
        if price.codes(child)[0] <= price.target:  # across the line: compare what it would become as a member
            child = np.array(self._fit(price, child, upper))
        code = tuple(int(i) for i in child)
        if len(self.trace) >= end and self.space.decode(code) not in self.known:
            return child, None
        return child, self.measure(code, name, "descent", price)

    def _guesses(self, budget: Budget, price: Price, upper: Code, end: int):
        """Even cuts: of everything, then per depth with Mamba left whole and with everything cut."""
        keep_mamba = {a: self.space.choices[a][0] for a in (MAMBA_HEADS, MAMBA_HEAD_DIM)}
        depths = self.space.choices[DEPTH]
        fixed: list[tuple[str, dict[str, int]]] = [("even", {})]
        for extra in (keep_mamba, {}):
            fixed += [("depth", {DEPTH: d, **extra}) for d in (depths if len(depths) > 1 else ())]
        if len(depths) == 1:
            fixed.append(("even", keep_mamba))
        for origin, given in fixed:
            if len(self.trace) >= end:
                return
            member = uniform(self.space, budget, fixed=given)
            yield origin, self._fit(price, np.array(self.space.encode(member)), upper)

    def _elite(self, price: Price, upper: Code, most: int) -> list[tuple[Code, float]]:
        """Best measured codes that meet the budget inside `upper`."""
        found = self._near(price, upper)
        return sorted(found, key=lambda pair: (pair[1], pair[0]))[:most]

    def _near(self, price: Price, upper: Code) -> list[tuple[Code, float]]:
        """Measured codes inside `upper` that meet the budget and use most of it."""
        if not self.tried:
            return []
        top = np.array(upper)
        codes = np.array([c for c, _ in self.tried], dtype=np.int64).reshape(len(self.tried), -1)
        costs = price.codes(codes)
        depth = self.space.slot(DEPTH)
        active = self.space.active_at[codes[:, depth] if depth is not None else np.zeros(len(codes), dtype=np.int64)]
        good = ((codes >= top) | ~active).all(axis=1) & (costs <= price.target)
        return [pair for pair, ok in zip(self.tried, good, strict=True) if ok]

    def _refine(self, name: str, price: Price, upper: Code) -> bool:
        """Measure the most promising new variation of the best codes; False when none is left."""
        near = self._near(price, upper)
        elite = self._elite(price, upper, ELITE)
        if not elite:
            return False
        pool: dict[Subnet, Code] = {}
        for _ in range(4 * POOL):
            code = self._fit(price, self._vary(elite), upper)
            member = self.space.decode(code)
            if member not in self.known:
                pool.setdefault(member, code)
            if len(pool) >= POOL:
                break
        if not pool:
            return False
        codes = list(pool.values())
        if len(near) < 3:
            chosen = codes[int(self.rng.integers(len(codes)))]
        else:
            seen = np.array([c for c, _ in near]), np.array([v for _, v in near])
            guess = self.surrogate.draw(*seen, np.array(codes), self.rng)
            chosen = codes[int(np.argmin(guess))]
        return self.measure(chosen, name, "refine", price) is not None

    def _vary(self, elite: list[tuple[Code, float]]) -> np.ndarray:
        """A child of the elite: sometimes crossed with another, then one to three groups or slots moved."""
        rng = self.rng
        # Rank-weighted: the best parent is drawn most often.
        odds = 1 / np.arange(1, len(elite) + 1)
        pick = rng.choice(len(elite), size=2, p=odds / odds.sum())
        child = np.array(elite[pick[0]][0])
        if pick[0] != pick[1] and rng.random() < 0.4:
            other = np.array(elite[pick[1]][0])
            for group in self.groups:
                if rng.random() < 0.5:
                    child[list(group)] = other[list(group)]
        for _ in range(int(rng.integers(1, 4))):
            group = self.groups[int(rng.integers(len(self.groups)))]
            slots = list(group) if rng.random() < 0.6 else [group[int(rng.integers(len(group)))]]
            step = int(rng.choice([-2, -1, 1, 2], p=[0.15, 0.35, 0.35, 0.15]))
            child[slots] = np.clip(child[slots] + step, 0, self.space.sizes[slots] - 1)
        return child


def _value(loss: float | None) -> float:
    return math.nan if loss is None else loss


def _json(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
