# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Search for shapes over untrained losses (method §12: a good shape is worth about twice the tokens).

Down: for every budget from the largest to the smallest, inside the member before,
1. a descent, lazy and greedy: a step shrinks one axis, or one group of layers of it; the step that costs the least
   loss per unit of cost is taken; steps keep their last figure and only the leader is measured again;
2. structured guesses: the most even cut, the one that spares Mamba, and both for every depth;
3. refinement: variations of the best are judged by a sample from a small regression, and the winner is measured.

Up: a good large member may shut the small ones in, so from the smallest budget to the largest the same refinement,
each member free but for having to hold the one before.

Where a budget has several limits, few members use them as far as they can. If there are candidates enough for all of
them, of all budgets, each is measured, and nothing is sampled.

A shape that is known already may be the start: it is measured first, and varied like the others where it is good.
Every other candidate is fitted to its budget first, so losses compare at equal cost. Of all that was measured, the
nested chain with the smallest product of losses wins: no member buys a little with a lot of another's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.moe import EXPERTS
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer
from nemo_elastic.search.chains import best_chains, different_chains
from nemo_elastic.search.even import uniform
from nemo_elastic.search.explorer import Explorer, Goal, Trial, nested
from nemo_elastic.search.space import Code, Space

#: share of all candidates for the way down; of a budget's candidates there, for the descent and for guesses
DOWN, DESCENT, GUESSES = 0.8, 0.5, 0.15
#: added to a loss before chains are compared: below it, in nats per token, differences are noise
NOISE = 0.02
#: share of a budget that a candidate beside the best may leave unused
ROOM = 0.05
#: loss over that of the best, `NOISE` added to both, above which a candidate is not trained
WORSE = 2.0
#: members of a space that are all looked at, at most
COUNTED = 2**18
#: axes by which candidates differ that are worth training beside each other
CELL = (HIDDEN, DEPTH, EXPERTS)


@dataclass(frozen=True)
class SearchResult:
    """Members of all budgets, nested, each at most its budget.

    Attributes:
        members: budget name -> member, the parent's among them.
        kept: budget name -> its best candidates of different cells, its member first; each is part of a nested chain.
        losses: budget name -> its loss; NaN for a member that there was no candidate left to measure.
        trace: every measurement in order.
    """

    members: dict[str, Subnet]
    kept: dict[str, list[Subnet]]
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
    keep: int = 1,
) -> SearchResult:
    """Find members with a low loss, nested in each other, each at most its budget.

    The same arguments and the same losses give the same result. On several ranks every rank runs the search, and
    `loss` must return the same number on all of them.

    Args:
        space: choices that members may make.
        budgets: in descending order, as in `ElasticConfig.budgets`.
        loss: loss of an untrained member, at least 0, lower is better (a distillation loss: 0 is the parent). Called
            at most once per member. NaN counts as infinite.
        candidates: how many times `loss` may be called in all. 64 is useful, 256 plenty; below about 30 the result is
            an even cut, hardly improved.
        seed: of the refinement's samples.
        progress: called after every measurement with (number, candidates, trial).
        start: a shape of the space to measure before all others. With a single budget that it meets, what is found is
            never worse.
        keep: candidates to keep of each budget.

    Raises:
        ElasticError: a budget that no member meets, or that is not below the one before, or a start outside of the
            space; nothing was measured then.
    """
    integer("elastic.search.candidates", candidates, 1, "at least 1")
    integer("seed", seed, 0, "an integer of at least 0")
    space.check_budgets(budgets)
    wanted = [b for b in budgets if not b.is_parent]
    shares = [space.price(b).target / space.price(b).whole for b in wanted]
    for b, share, before in zip(wanted[1:], shares[1:], shares, strict=False):
        if share > before:
            raise bad(
                f"elastic.budgets[{b.name}]",
                f"{share:.4g} of the parent",
                f"below {before:.4g}, the share of the budget before it",
            )
    explorer = Explorer(space, loss, candidates, np.random.default_rng(seed), progress)
    if start is not None and wanted:
        code, least = space.encode(start), tuple(int(n) - 1 for n in space.sizes)
        first = Goal(wanted[0], space.price(wanted[0]), (0,) * len(space.slots), least)
        explorer.measure(code, first, "start")
    chain = _explore(explorer, space, wanted)
    members = {b.name: space.full for b in budgets if b.is_parent}
    members |= {b.name: space.decode(code) for b, code in zip(wanted, chain, strict=True)}
    members = {b.name: members[b.name] for b in budgets}
    losses = {name: explorer.known.get(member, math.nan) for name, member in members.items()}
    kept = {name: [member] for name, member in members.items()}
    for budget, codes in zip(wanted, _kept(explorer, space, wanted, keep), strict=True):
        kept[budget.name] += [m for code in codes if (m := space.decode(code)) != members[budget.name]]
    return SearchResult(members, kept, losses, explorer.trace)


def _explore(explorer: Explorer, space: Space, budgets: Sequence[Budget]) -> list[Code]:
    whole, least = (0,) * len(space.slots), tuple(int(n) - 1 for n in space.sizes)
    if not budgets:
        return []
    if (chain := _counted(explorer, space, budgets)) is not None:
        return chain
    upper, down = whole, []
    total = max(round(DOWN * explorer.left), 1)
    for number, budget in enumerate(budgets):
        goal = Goal(budget, space.price(budget), upper, least)
        allowance = (total - len(explorer.trace)) // (len(budgets) - number)
        start, end = len(explorer.trace), len(explorer.trace) + allowance
        # The first round measures every group once; later budgets profit from its figures.
        explorer.descend(goal, start + max(round(DESCENT * allowance), min(len(explorer.groups) + 2, allowance // 2)))
        explorer.guess(goal, min(end, len(explorer.trace) + max(round(GUESSES * allowance), 1)))
        explorer.refine(goal, end)
        best = explorer.meets(goal)
        upper = tuple(int(i) for i in explorer.codes[best[0]]) if len(best) else _unmeasured(explorer, goal)
        down.append(upper)
    lower = least
    for number, budget in enumerate(reversed(budgets)):
        goal = Goal(budget, space.price(budget), whole, lower)
        end = len(explorer.trace) + explorer.left // (len(budgets) - number)
        if not len(explorer.meets(goal)):
            explorer.measure(explorer.fit(goal, np.array(down[len(budgets) - 1 - number])), goal, "fit")
        explorer.refine(goal, end)
        best = explorer.meets(goal)
        if not len(best):
            break
        lower = tuple(int(i) for i in explorer.codes[best[0]])
    before = -1
    while explorer.left and len(explorer.trace) > before:  # where a window was too narrow to use all candidates
        before = len(explorer.trace)
        for number, budget in enumerate(budgets):
            end = before + -(-explorer.left // (len(budgets) - number))
            explorer.refine(Goal(budget, space.price(budget), whole, least), end)
    return _best_chain(explorer, space, budgets) or down


def _counted(explorer: Explorer, space: Space, budgets: Sequence[Budget]) -> list[Code] | None:
    """The best chain of all members that matter, each measured; None where these are many, or no chain is nested."""
    if all(len(b.limits) == 1 for b in budgets):
        return None
    pools = [pool for b in budgets if (pool := fullest(space, b)) is not None]
    if len(pools) < len(budgets) or sum(map(len, pools)) > explorer.left:
        return None
    whole, least = (0,) * len(space.slots), tuple(int(n) - 1 for n in space.sizes)
    for budget, pool in zip(budgets, pools, strict=True):
        for code in pool:
            explorer.measure(tuple(int(i) for i in code), Goal(budget, space.price(budget), whole, least), "all")
    return _best_chain(explorer, space, budgets)


def fullest(space: Space, budget: Budget) -> np.ndarray | None:
    """Codes of all members within a budget to which nothing can be added; None where members are too many to tell.

    Returns:
        Integers [n, slots]: each member within the budget is nested in one of them.
    """
    if np.prod(space.sizes, dtype=np.float64) > COUNTED:
        return None
    codes = np.indices(tuple(space.sizes)).reshape(len(space.sizes), -1).T
    fits = (space.price(budget).codes(codes) <= space.price(budget).target).reshape(tuple(space.sizes))
    full = fits.copy()
    for slot in range(len(space.sizes)):
        np.moveaxis(full, slot, 0)[1:] &= ~np.moveaxis(fits, slot, 0)[:-1]
    return codes[full.reshape(-1)]


def _unmeasured(explorer: Explorer, goal: Goal) -> Code:
    """Without a candidate left: the even cut, made to fit."""
    member = uniform(explorer.space, goal.budget)
    return explorer.fit(goal, np.array(explorer.space.encode(member)))


def _best_chain(explorer: Explorer, space: Space, budgets: Sequence[Budget]) -> list[Code] | None:
    """Of the measured codes one per budget, each nested in the one before, with the smallest product of losses."""
    chain = _kept(explorer, space, budgets, keep=1)
    return [codes[0] for codes in chain] if all(chain) else None


def _kept(explorer: Explorer, space: Space, budgets: Sequence[Budget], keep: int) -> list[list[Code]]:
    """For each budget the best measured codes of different cells, each part of a nested chain, the best chain first.

    Beside the best chain none is kept that leaves more than `ROOM` of its budget unused, as what is cut for a smaller
    one does, or whose loss is more than `WORSE` times that of the best chain's.
    """
    codes = explorer.codes
    if not len(codes):
        return [[] for _ in budgets]
    prices = [space.price(budget) for budget in budgets]
    misses = np.stack([price.miss(price.codes(codes)) for price in prices])
    scores = np.where(misses <= 0, np.log(np.maximum(explorer.losses, 0) + NOISE), np.inf)
    inside = np.stack([nested(space, codes, upper) for upper in codes])
    best = best_chains(scores, inside, 1)
    if keep > 1 and all(best):
        near = misses >= -ROOM
        for budget, (first,) in enumerate(best):
            near[budget] &= scores[budget] <= scores[budget, first] + math.log(WORSE)
            near[budget, first] = True
        widths, cells = ([_cell(space, code, axes) for code in codes] for axes in ((HIDDEN,), CELL))
        best = different_chains(np.where(near, scores, np.inf), inside, keep, widths, cells)
    return [[tuple(int(i) for i in codes[at]) for at in own] for own in best]


def _cell(space: Space, code: np.ndarray, axes: Sequence[str]) -> tuple[int, ...]:
    """What a code chooses on some axes: of each layer that is kept, where layers have choices of their own."""
    active = space.active(code)
    slots = (slot for axis in axes if axis in space.axes for slot in space.positions(axis))
    return tuple(int(code[slot]) for slot in slots if active[slot])


def _json(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
