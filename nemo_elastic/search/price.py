# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a budget says that members cost, for thousands of codes at once.

What a limit counts is a sum over layers at a given residual width (`core.limits`), so a small table per type of layer
prices any code exactly, filled once from `Limit.cost`: two where low precision stores some layers of a type and leaves
others. The router's expected cost reads the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.limits import Limit, figure
from nemo_elastic.errors import bad


class Coded(Protocol):
    """What is priced: members and their codes, as `space.Space` has them."""

    @property
    def parent(self) -> Parent: ...
    @property
    def choices(self) -> Mapping[str, Sequence[int]]: ...
    @property
    def slots(self) -> Sequence[Any]: ...
    @property
    def sizes(self) -> np.ndarray: ...

    # cached there, which no type of a property allows for
    @property
    def kept(self) -> Any: ...
    @property
    def full(self) -> Any: ...
    @property
    def smallest(self) -> Any: ...

    def positions(self, axis: str) -> Sequence[int]: ...


class LimitPrice:
    """Exact cost of the members of a space under one limit, in its unit (parameters or bytes).

    Attributes:
        limit: what is priced.
        target: the most that it may be; whole: the parent's cost.
        base: cost of what is outside the layers, float64 [hidden choices].
        layers: layers that cost the same at the same widths, by a name for them: their type, with a number behind it
            where others of the type cost something else.
        rows: the same names -> which of the layers of their type they are.
        tables: the same names -> cost of such a layer, float64 [hidden choices, choices of each axis of the kind].
    """

    def __init__(self, space: Coded, limit: Limit) -> None:
        self.space, self.limit = space, limit
        self.target = float(limit.target(space.parent))
        parent, choices = space.parent, space.choices
        bare = [limit.cost(parent, Subnet(h, ())) for h in choices[HIDDEN]]
        self.base = np.array(bare, dtype=np.float64)
        self.layers, self.tables = self._alike(), dict[str, np.ndarray]()
        types = np.array(parent.types)
        self.rows = {
            name: np.flatnonzero(np.isin(np.flatnonzero(types == self.kind(name)), layers))
            for name, layers in self.layers.items()
        }
        for name, layers in self.layers.items():
            kind = parent.types[layers[0]]
            axes = parent.kind(kind).widths
            table = np.zeros((len(bare), *(len(choices[axis]) for axis in axes)))
            for at in np.ndindex(table.shape):
                chosen = {axis: choices[axis][i] for axis, i in zip(axes, at[1:], strict=True)}
                layer = Layer(int(layers[0]), kind, parent.widths(kind, chosen))
                table[at] = limit.cost(parent, Subnet(choices[HIDDEN][at[0]], (layer,))) - bare[at[0]]
            self.tables[name] = table
        self.whole = self(space.full)
        ends = np.stack([np.zeros_like(space.sizes), space.sizes - 1])
        if not np.allclose(self.codes(ends), [self.whole, self(space.smallest)], rtol=1e-9):
            raise AssertionError(f"{limit.name}: the cost is not a sum over layers")

    def _alike(self) -> dict[str, np.ndarray]:
        """See `layers`."""
        full, alike = self.space.parent.full, dict[tuple[str, float], list[int]]()
        for i, layer in enumerate(full.layers):
            cost = float(self.limit.cost(self.space.parent, Subnet(full.hidden, (layer,))))
            alike.setdefault((layer.type, cost), []).append(i)
        out: dict[str, np.ndarray] = {}
        for (kind, _), layers in alike.items():
            others = sum(own.rstrip("0123456789") == kind for own in out)
            out[f"{kind}{others or ''}"] = np.array(layers)
        return out

    def kind(self, name: str) -> str:
        """Type of the layers of that name; see `layers`."""
        return self.space.parent.types[self.layers[name][0]]

    def __call__(self, member: Subnet) -> float:
        """Cost of any member, straight from the limit."""
        return float(self.limit.cost(self.space.parent, member))

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
        for name, table in self.tables.items():
            widths = [chosen(axis) for axis in self.space.parent.kind(self.kind(name)).widths]
            each = table[(h, *(own if own.shape[1] == 1 else own[:, self.rows[name]] for own in widths))]
            kept_n = kept[:, self.layers[name]]
            # One width for all layers: their number is all that matters.
            total = total + (each[:, 0] * kept_n.sum(axis=1) if each.shape[1] == 1 else (each * kept_n).sum(axis=1))
        return total

    @cached_property
    def weights(self) -> np.ndarray:
        """Share of the parent's cost that each slot rules, per unit of relative width, float64 [slots]."""
        sizes = self.space.sizes
        spans = np.array([1 - s.choices[-1] / s.choices[0] for s in self.space.slots])
        return (self.whole - self.codes(np.diag(sizes - 1))) / self.whole / spans if len(sizes) else spans


class Price:
    """Exact cost of the members of a space under a budget: in the unit of its limit, or the largest share of several.

    Attributes:
        budget: what is priced.
        limits: the price of each of its limits.
        target: the most that it may be, 1 of several limits; whole: the parent's cost.
    """

    def __init__(self, space: Coded, budget: Budget) -> None:
        self.space, self.budget = space, budget
        self.limits = tuple(LimitPrice(space, limit) for limit in budget.limits)
        one = len(self.limits) == 1
        self.target = self.limits[0].target if one else 1.0
        self.units = np.array([1.0 if one else limit.target for limit in self.limits])
        self.whole = self(space.full)

    def __call__(self, member: Subnet) -> float:
        """Cost of any member."""
        return max(float(limit(member) / unit) for limit, unit in zip(self.limits, self.units, strict=True))

    def miss(self, cost: Any) -> Any:
        """Relative distance from the target: below zero where a cost leaves room."""
        return cost / self.target - 1

    def each(self, codes: np.ndarray) -> np.ndarray:
        """Cost of codes by limit, integers [n, slots] -> float64 [n, limits]; all are held against `target`."""
        costs = [limit.codes(codes)[:, None] for limit in self.limits]
        return costs[0] if len(costs) == 1 else np.concatenate(costs, axis=1) / self.units

    def codes(self, codes: np.ndarray) -> np.ndarray:
        """Cost of codes, integers [n, slots] -> float64 [n]."""
        return self.each(codes).max(axis=1)

    @cached_property
    def weights(self) -> np.ndarray:
        """Share of the parent's cost that each slot rules, a mean over limits; see `LimitPrice`."""
        return np.mean([limit.weights for limit in self.limits], axis=0)

    def check(self) -> None:
        """Raise `ElasticError` unless the smallest member meets the budget."""
        short = [(limit, least) for limit in self.limits if (least := limit(self.space.smallest)) > limit.target]
        if len(short) == 1:
            ((limit, least),) = short
            raise bad(
                limit.limit.name,
                limit.limit.value,
                f"its limit is {figure(limit.target)} and the nearest cost that the axes reach is {figure(least)} "
                f"({least / limit.whole:.4g} of the parent); raise it or add smaller choices",
            )
        if short:
            nearest = (f"{x.limit.kind.words(least)} ({least / x.whole:.4g} of the parent)" for x, least in short)
            raise bad(
                f"elastic.budgets[{self.budget.name}]",
                {limit.limit.kind.field: limit.limit.value for limit, _ in short},
                f"the nearest that the axes reach are {' and '.join(nearest)}; raise them or add smaller choices",
            )
