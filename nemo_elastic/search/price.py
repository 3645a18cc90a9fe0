# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Price`: what a budget says that members cost, for thousands of codes at once.

Every cost so far is a sum over layers at a given residual width (`cost.parameters`, `cost.memory`), so a small table
per type of layer, filled once from `Budget.cost`, prices any code exactly. The router's expected cost reads the same
table.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.core.budget import TARGETS, Budget
from nemo_elastic.core.family import Layer, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.errors import bad

if TYPE_CHECKING:
    from nemo_elastic.search.space import Space


class Price:
    """Exact cost of the members of a space under one budget, in the budget's unit (parameters or bytes).

    Attributes:
        budget: what is priced.
        target: its limit; whole: the parent's cost.
        base: cost of what is outside the layers, float64 [hidden choices].
        tables: type of layer -> its cost, float64 [hidden choices, choices of each axis of the kind].
    """

    def __init__(self, space: Space, budget: Budget) -> None:
        self.space, self.budget = space, budget
        self.target = float(budget.target(space.parent))
        parent, choices = space.parent, space.choices
        bare = [budget.cost(parent, Subnet(h, ())) for h in choices[HIDDEN]]
        self.base = np.array(bare, dtype=np.float64)
        self.tables: dict[str, np.ndarray] = {}
        for kind in dict.fromkeys(parent.types):
            axes = parent.kind(kind).widths
            table = np.zeros((len(bare), *(len(choices[axis]) for axis in axes)))
            for at in np.ndindex(table.shape):
                chosen = {axis: choices[axis][i] for axis, i in zip(axes, at[1:], strict=True)}
                layer = Layer(parent.types.index(kind), kind, parent.widths(kind, chosen))
                table[at] = budget.cost(parent, Subnet(choices[HIDDEN][at[0]], (layer,))) - bare[at[0]]
            self.tables[kind] = table
        self._layers = {kind: np.array([i for i, t in enumerate(parent.types) if t == kind]) for kind in self.tables}
        self.whole = self(space.full)
        ends = np.stack([np.zeros_like(space.sizes), space.sizes - 1])
        if not np.allclose(self.codes(ends), [self.whole, self(space.smallest)], rtol=1e-9):
            raise AssertionError(f"the cost of {budget.name} is not a sum over layers")

    def __call__(self, member: Subnet) -> float:
        """Cost of any member, straight from the budget."""
        return float(self.budget.cost(self.space.parent, member))

    def miss(self, cost: float) -> float:
        """Relative distance from the target: below zero where a cost leaves room."""
        return cost / self.target - 1

    def codes(self, codes: np.ndarray) -> np.ndarray:
        """Cost of codes, integers [n, slots] -> float64 [n]."""
        codes = np.atleast_2d(codes)
        rigid = np.zeros((len(codes), 1), dtype=np.int64)

        def chosen(axis: str) -> np.ndarray:
            """Choices on an axis: [n, 1], or [n, layers] where each layer has its own."""
            slots = self.space.positions(axis)
            return codes[:, slots] if slots else rigid

        h, kept = chosen(HIDDEN), self.space.kept[chosen(DEPTH)[:, 0]]
        total = self.base[h[:, 0]]
        for kind, table in self.tables.items():
            each = table[(h, *(chosen(axis) for axis in self.space.parent.kind(kind).widths))]
            kept_n = kept[:, self._layers[kind]]
            # One width for all layers: their number is all that matters.
            total = total + (each[:, 0] * kept_n.sum(axis=1) if each.shape[1] == 1 else (each * kept_n).sum(axis=1))
        return total

    @cached_property
    def weights(self) -> np.ndarray:
        """Share of the parent's cost that each slot rules, per unit of relative width, float64 [slots]."""
        sizes = self.space.sizes
        spans = np.array([1 - s.choices[-1] / s.choices[0] for s in self.space.slots])
        return (self.whole - self.codes(np.diag(sizes - 1))) / self.whole / spans if len(sizes) else spans

    def check(self) -> None:
        """Raise `ElasticError` unless the smallest member meets the budget."""
        least = self(self.space.smallest)
        if least > self.target:
            field = next((f for f in TARGETS if getattr(self.budget, f) is not None), "target")
            given = getattr(self.budget, field, None)
            raise bad(
                f"elastic.budgets[{self.budget.name}].{field}",
                given,
                f"its limit is {self.target:.0f} and the nearest cost that the axes reach is {least:.0f} "
                f"({least / self.whole:.4g} of the parent); raise it or add smaller choices",
            )
