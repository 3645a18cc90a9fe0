# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring candidates for one budget at a time: descent, structured guesses, refinement (see `finder`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import DEPTH, KINDS
from nemo_elastic.search.even import uniform
from nemo_elastic.search.projection import fit
from nemo_elastic.search.space import Code, Price, Space
from nemo_elastic.search.surrogate import Surrogate, layer_groups

#: descent steps that a budget's cut is divided in
STEPS = 6
#: best candidates that are varied, and variations judged before one is measured
ELITE, POOL = 6, 32


@dataclass(frozen=True)
class Trial:
    """One measured candidate.

    Attributes:
        number: counts from 1.
        budget: name of the budget that it was tried for.
        origin: start, parent, descent, even, depth, mamba, fit, refine or all.
        cost: in the budget's unit; loss: what the callable returned, infinite for NaN.
        member: what was measured.
    """

    number: int
    budget: str
    origin: str
    cost: float
    loss: float
    member: Subnet


@dataclass(frozen=True)
class Goal:
    """A budget and the members that its own must lie between: nested in `upper`, holding `lower`."""

    budget: Budget
    price: Price
    upper: Code
    lower: Code


class Explorer:
    """Measurements so far, and ways to choose the next one.

    Args:
        space: where candidates lie.
        loss: loss of a member; called once per member.
        candidates: how often it may be called.
        rng: source of all samples.
        progress: called with (number, candidates, trial) after each measurement.
    """

    def __init__(
        self,
        space: Space,
        loss: Callable[[Subnet], float],
        candidates: int,
        rng: np.random.Generator,
        progress: Callable[[int, int, Trial], None] | None = None,
    ) -> None:
        self.space, self.loss, self.candidates, self.rng, self.progress = space, loss, candidates, rng, progress
        self.groups = layer_groups(space)
        self.surrogate = Surrogate(space, self.groups)
        self.known: dict[Subnet, float] = {}
        self.codes = np.zeros((0, len(space.slots)), dtype=np.int64)
        self.losses = np.zeros(0)
        self.trace: list[Trial] = []
        self._fitted: dict[tuple[str, Code, Code, Code], Code] = {}
        self.ratios: dict[int, float] = {}  # group -> loss per unit of cost when it was last measured

    @property
    def left(self) -> int:
        return self.candidates - len(self.trace)

    def measure(self, code: Code, goal: Goal, origin: str) -> float | None:
        """The loss of a code; None when no candidate is left. Members seen before are free."""
        member = self.space.decode(code)
        if member in self.known:
            return self.known[member]
        if self.left < 1:
            return None
        value = float(self.loss(member))
        value = math.inf if math.isnan(value) else value
        self.known[member] = value
        self.codes = np.concatenate([self.codes, np.array([code], dtype=np.int64).reshape(1, -1)])
        self.losses = np.append(self.losses, value)
        cost = goal.price(member)
        self.trace.append(Trial(len(self.trace) + 1, goal.budget.name, origin, cost, value, member))
        if self.progress is not None:
            self.progress(len(self.trace), self.candidates, self.trace[-1])
        return value

    def meets(self, goal: Goal) -> np.ndarray:
        """Measured codes that meet a goal, best first: positions in `codes`."""
        good = nested(self.space, self.codes, goal.upper) & holds(self.space, self.codes, goal.lower)
        good &= goal.price.codes(self.codes) <= goal.price.target if len(self.codes) else good
        at = np.flatnonzero(good)
        return at[np.argsort(self.losses[at], kind="stable")]

    def fit(self, goal: Goal, code: np.ndarray) -> Code:
        """`projection.fit` to a goal; variations come back often, so each is fitted once."""
        start = tuple(int(i) for i in code)
        key = goal.budget.name, goal.upper, goal.lower, start
        if key not in self._fitted:
            self._fitted[key] = fit(self.space, goal.price, start, goal.upper, goal.lower)
        return self._fitted[key]

    # ------------------------------------------------------------------ descent

    def descend(self, goal: Goal, end: int) -> None:
        """Lazy greedy from the goal's upper member down to its budget.

        Args:
            goal: where to go.
            end: length of the trace at which to stop measuring; the rest of the way goes by the last figures.
        """
        now = np.array(goal.upper)
        cost = goal.price.each(now)[0]
        stride = max((cost.max() - goal.price.target) / STEPS, 0.0)
        here = self.measure(goal.upper, goal, "descent")
        while (over := cost > goal.price.target).any():
            fresh: dict[int, tuple[np.ndarray, float]] = {}
            while True:
                group = self._leader(now, len(self.trace) < min(end, self.candidates))
                if group is None:
                    return
                if group in fresh:
                    now, here = fresh[group]
                    break
                child = self._shrink(goal, now, group, stride)
                code = tuple(int(i) for i in child)
                may = len(self.trace) < end or self.space.decode(code) in self.known
                at = self.measure(code, goal, "descent") if may else None
                if at is None or here is None:
                    now, here = child, at
                    break
                fresh[group] = child, at
                removed = (cost - goal.price.each(child)[0])[over].sum() / goal.price.whole
                self.ratios[group] = (at - here) / max(removed, 1e-9)
            cost = goal.price.each(now)[0]
        self.measure(self.fit(goal, now), goal, "descent")

    def _leader(self, now: np.ndarray, may_measure: bool) -> int | None:
        """The group with the least loss per cost by its last figure; a group without one comes first to be measured,
        and never blindly.
        """
        open_groups = [g for g in range(len(self.groups)) if self._can(now, g)]
        if not may_measure:
            open_groups = [g for g in open_groups if g in self.ratios]
        return min(open_groups, key=lambda g: (self.ratios.get(g, -math.inf), g), default=None)

    def _can(self, now: np.ndarray, group: int) -> bool:
        active = self.space.active(now)
        return any(active[s] and now[s] < self.space.sizes[s] - 1 for s in self.groups[group])

    def _shrink(self, goal: Goal, now: np.ndarray, group: int, stride: float) -> np.ndarray:
        """`now` with one group shrunk until a stride of cost is gone; across the line, fitted to the budget."""
        slots, child, cost = list(self.groups[group]), now.copy(), goal.price.codes(now)[0]
        while self._can(child, group):
            child[slots] = np.minimum(child[slots] + 1, self.space.sizes[slots] - 1)
            if cost - goal.price.codes(child)[0] >= stride:
                break
        return np.array(self.fit(goal, child)) if goal.price.codes(child)[0] <= goal.price.target else child

    # ------------------------------------------------------------------ guesses and refinement

    def guess(self, goal: Goal, end: int) -> None:
        """Even cuts: of everything, of everything but a kind that is spared, and the same for every depth."""
        choices = self.space.choices
        spared = [(k.name, {a: choices[a][0] for a in k.widths}) for k in KINDS.values() if k.spared]
        fixed: list[tuple[str, dict[str, int]]] = [("even", {}), *spared]
        if len(choices[DEPTH]) > 1:
            whole = [*(widths for _, widths in spared), {}]
            fixed += [("depth", {DEPTH: d, **extra}) for extra in whole for d in choices[DEPTH]]
        for origin, given in fixed:
            if len(self.trace) >= min(end, self.candidates):
                return
            member = uniform(self.space, goal.budget, fixed=given)
            self.measure(self.fit(goal, np.array(self.space.encode(member))), goal, origin)

    def refine(self, goal: Goal, end: int) -> None:
        """Measure variations of the best codes, the most promising first, until `end` or until none is new."""
        while len(self.trace) < min(end, self.candidates):
            best = self.meets(goal)
            if not len(best) or not self.groups:
                return
            pool = self._pool(goal, list(self._variations(best[:ELITE])))
            if not pool:
                return
            if len(best) < 3:
                chosen = pool[int(self.rng.integers(len(pool)))]
            else:
                guess = self.surrogate.sample(self.codes[best], self.losses[best], np.array(pool), self.rng)
                chosen = pool[int(np.argmin(guess))]
            self.measure(chosen, goal, "refine")

    def _pool(self, goal: Goal, variations: list[np.ndarray]) -> list[Code]:
        """Fitted variations that are new, each once."""
        pool: dict[Subnet, Code] = {}
        for variation in variations:
            code = self.fit(goal, variation)
            member = self.space.decode(code)
            if member not in self.known:
                pool.setdefault(member, code)
            if len(pool) >= POOL:
                break
        return list(pool.values())

    def _variations(self, elite: np.ndarray) -> Iterator[np.ndarray]:
        """Children of the elite: sometimes crossed with another, then one to three groups or slots moved."""
        rng = self.rng
        odds = 1 / np.arange(1, len(elite) + 1)  # the best parent is sampled most often
        for _ in range(3 * POOL):
            one, two = rng.choice(elite, size=2, p=odds / odds.sum())
            child = self.codes[one].copy()
            if one != two and rng.random() < 0.4:
                for group in self.groups:
                    if rng.random() < 0.5:
                        child[list(group)] = self.codes[two][list(group)]
            for _ in range(int(rng.integers(1, 4))):
                group = self.groups[int(rng.integers(len(self.groups)))]
                slots = list(group) if rng.random() < 0.6 else [group[int(rng.integers(len(group)))]]
                step = int(rng.choice([-2, -1, 1, 2], p=[0.15, 0.35, 0.35, 0.15]))
                child[slots] = np.clip(child[slots] + step, 0, self.space.sizes[slots] - 1)
            yield child


def nested(space: Space, codes: np.ndarray, upper: Code | np.ndarray) -> np.ndarray:
    """Which of some codes [n, slots] are nested in `upper`, bool [n]."""
    depth = space.slot(DEPTH)
    active = space.active_at[codes[:, depth] if depth is not None else np.zeros(len(codes), dtype=np.int64)]
    return ((codes >= np.asarray(upper)) | ~active).all(axis=1)


def holds(space: Space, codes: np.ndarray, lower: Code | np.ndarray) -> np.ndarray:
    """Which of some codes [n, slots] have `lower` nested in them, bool [n]."""
    return ((codes <= np.asarray(lower)) | ~space.active(np.asarray(lower))).all(axis=1)
