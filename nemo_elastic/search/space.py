# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Space`: the members that the axes of an `elastic:` block allow, as short integer codes.

A code has one entry per slot: the index of a choice, 0 for the parent's and growing as the width shrinks. So `a` is
nested in `b` where a's code is nowhere below b's, which makes projection and search plain integer work.

A cost is a sum over layers at a given residual width (`core.limits`), so a small table for each type of layer prices
any code exactly, and is filled once from `Limit.cost`. A type has two tables where low precision stores some of its
layers and leaves others. The router's expected cost reads the same tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, layer_axes
from nemo_elastic.core.limits import Limit, figure
from nemo_elastic.errors import ElasticError, bad

Code = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One decision: a choice of `axis` for layer `layer` of the parent, or for the whole model (None)."""

    axis: str
    layer: int | None
    choices: tuple[int, ...]


def keep_attention(parent: Parent, drop_order: Sequence[int], number: int) -> tuple[int, ...]:
    """A drop order that ends with the most important attention layers, as far as it has too many of them.

    Args:
        parent: shape of the parent.
        drop_order: layers from least to most important; those that it does not name are never dropped.
        number: attention layers to keep, or all that the parent has.
    """
    named = [i for i in drop_order if i in parent.attention_layers]
    safe = len(parent.attention_layers) - len(named)
    last = named[max(0, safe + len(named) - number) :] if number > safe else []
    return (*(i for i in drop_order if i not in last), *last)


class Space:
    """All members with widths among an axis' choices and the layers that a ranking keeps.

    Args:
        parent: shape of the parent, with the FFN stripes of the block (`ElasticConfig.parent_shape`).
        axes: `ElasticConfig.resolve_axes(parent)`; an axis with one choice is rigid.
        drop_order: layers from least to most important (`Ranking.depth`); a depth of k keeps all but the first N-k.
            May be empty where depth is rigid. The most important attention layers go to its end: the axis says how
            many every member keeps (`AxisConfig.keep_attention`).

    Attributes:
        axes: their names, `Parent.axes`.
        slots: every decision, free axes only, in the order of `Parent.axes` and then of layers.
        full: the parent as a member; smallest: the last choice everywhere.

    Raises:
        ElasticError: the drop order does not fit the parent or is too short for the smallest depth.
    """

    def __init__(self, parent: Parent, axes: Mapping[str, AxisConfig], drop_order: Sequence[int] = ()) -> None:
        self.parent, self.axes = parent, parent.axes
        self.choices: dict[str, tuple[int, ...]] = {}
        self.per_layer: dict[str, bool] = {}
        for axis in self.axes:
            full = parent.num_layers if axis == DEPTH else parent.axis(axis).size
            config = axes.get(axis)
            self.choices[axis] = tuple(config.choices) if config is not None else (full,)
            self.per_layer[axis] = config is not None and config.per_layer
            if self.choices[axis][0] != full:
                raise bad(f"axes.{axis}", list(self.choices[axis]), f"a first choice of the parent's {full}")
        self.drop_order = tuple(int(j) for j in drop_order)
        most = parent.num_layers - self.choices[DEPTH][-1]
        if not set(self.drop_order) <= set(range(parent.num_layers)) or len(set(self.drop_order)) < len(drop_order):
            raise bad("drop_order", list(drop_order), f"each of the parent's {parent.num_layers} layers at most once")
        if len(self.drop_order) < most:
            raise bad("drop_order", list(drop_order), f"at least the {most} layers that the smallest depth drops")
        kept = axes[DEPTH].kept_attention if DEPTH in axes else 0
        self.drop_order = keep_attention(parent, self.drop_order, kept)
        self.slots = tuple(
            Slot(axis, layer, self.choices[axis])
            for axis in self.axes
            if len(self.choices[axis]) > 1
            for layer in (self.layers_of(axis) if self.per_layer[axis] else (None,))
        )
        self.sizes = np.array([len(s.choices) for s in self.slots], dtype=np.int64)
        self._slot = {(s.axis, s.layer): i for i, s in enumerate(self.slots)}
        self._positions = {a: tuple(i for i, s in enumerate(self.slots) if s.axis == a) for a in self.axes}
        self._prices: dict[str, Price] = {}
        self._layers: dict[tuple[int, tuple[int, ...]], Layer] = {}

    @cached_property
    def whole_drop_order(self) -> tuple[int, ...]:
        """The drop order, with the layers that no depth drops at its end."""
        rest = [i for i in range(self.parent.num_layers) if i not in set(self.drop_order)]
        return (*self.drop_order, *rest)

    def reordered(self, drop_order: Sequence[int]) -> Space:
        """The same choices with another drop order, without moving attention layers in it."""
        axes = {
            axis: AxisConfig(choices, self.per_layer[axis], keep_attention=0 if axis == DEPTH else None)
            for axis, choices in self.choices.items()
        }
        return Space(self.parent, axes, drop_order)

    def layers_of(self, axis: str) -> tuple[int, ...]:
        """Parent indices of the layers that have a per-layer axis."""
        return tuple(i for i, kind in enumerate(self.parent.types) if axis in self.parent.kind(kind).widths)

    def slot(self, axis: str, layer: int | None = None) -> int | None:
        """Position in a code of the decision on `axis` that concerns `layer`; None where the axis is rigid."""
        return self._slot.get((axis, None), self._slot.get((axis, layer)))

    def positions(self, axis: str) -> tuple[int, ...]:
        """Positions in a code of all slots of an axis."""
        return self._positions[axis]

    @cached_property
    def kept(self) -> np.ndarray:
        """Which layers each depth choice keeps, bool [choices, layers]."""
        out = np.ones((len(self.choices[DEPTH]), self.parent.num_layers), dtype=bool)
        for i, k in enumerate(self.choices[DEPTH]):
            out[i, list(self.drop_order[: self.parent.num_layers - k])] = False
        return out

    @cached_property
    def shares(self) -> np.ndarray:
        """Every slot's choices as shares of the parent's width, float64 [slots, most choices], padded with zeros."""
        out = np.zeros((len(self.slots), int(max(self.sizes, default=1))))
        for row, slot in zip(out, self.slots, strict=True):
            row[: len(slot.choices)] = np.array(slot.choices) / slot.choices[0]
        return out

    @cached_property
    def full(self) -> Subnet:
        return self.decode((0,) * len(self.slots))

    @cached_property
    def smallest(self) -> Subnet:
        return self.decode(tuple(self.sizes - 1))

    def index(self, code: Sequence[int] | np.ndarray, axis: str, layer: int | None = None) -> int:
        """The choice that a code makes on an axis (for a layer): its index, 0 where the axis is rigid."""
        slot = self.slot(axis, layer)
        return int(code[slot]) if slot is not None else 0

    def decode(self, code: Sequence[int] | np.ndarray) -> Subnet:
        """The member of a code; entries of layers that it drops do not matter."""
        kept = self.kept[self.index(code, DEPTH)]
        layers = tuple(self._layer(code, i) for i in range(self.parent.num_layers) if kept[i])
        return Subnet(self.choices[HIDDEN][self.index(code, HIDDEN)], layers)

    def _layer(self, code: Sequence[int] | np.ndarray, i: int) -> Layer:
        kind = self.parent.types[i]
        choices = {axis: self.choices[axis][self.index(code, axis, i)] for axis in self.parent.kind(kind).widths}
        key = (i, tuple(choices.values()))
        if key not in self._layers:
            self._layers[key] = Layer(i, kind, self.parent.widths(kind, choices))
        return self._layers[key]

    def encode(self, member: Subnet) -> Code:
        """The code of a member; layers that it drops get the middle choice of those it keeps.

        Raises:
            ElasticError: the member is not in this space; the message names the axis, the value and the choices.
        """
        picked = [(HIDDEN, None, member.hidden), (DEPTH, None, len(member.layers))]
        picked += [(a, x.index, width) for x in member.layers for a, width in self.parent.choices(x).items()]
        seen: dict[int | None, int] = {}
        for axis, layer, width in picked:
            if width not in self.choices[axis]:
                where = axis if layer is None else f"{axis} of layer {layer}"
                raise bad(f"member: {where}", width, f"choices are {', '.join(map(str, self.choices[axis]))}")
            slot, at = self.slot(axis, layer), self.choices[axis].index(width)
            if slot is not None and seen.setdefault(slot, at) != at:
                widths = [self.choices[axis][seen[slot]], width]
                raise bad(f"member: {axis}", widths, "one width for all layers (per_layer is false)")
        expected = np.flatnonzero(self.kept[self.choices[DEPTH].index(len(member.layers))])
        if tuple(expected) != member.kept:
            raise bad("member: layers", list(member.kept), f"this ranking keeps {expected.tolist()} at that depth")
        code = [0] * len(self.slots)
        for slots in self._positions.values():
            active = sorted(seen[s] for s in slots if s in seen)
            for s in slots:
                code[s] = seen.get(s, active[len(active) // 2] if active else 0)
        return tuple(code)

    def active(self, code: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which entries of a code matter, bool [slots]: not those that only concern layers that it drops."""
        return self.active_at[self.index(code, DEPTH)]

    @cached_property
    def active_at(self) -> np.ndarray:
        """`active` for every depth choice, bool [depth choices, slots]."""
        concerns = [
            (s.layer,) if s.layer is not None else self.layers_of(s.axis) if s.axis in layer_axes() else None
            for s in self.slots
        ]
        rows = [[layers is None or bool(kept[list(layers)].any()) for layers in concerns] for kept in self.kept]
        return np.array(rows, dtype=bool).reshape(len(rows), len(self.slots))

    def nested(self, inner: Sequence[int] | np.ndarray, outer: Sequence[int] | np.ndarray) -> np.ndarray:
        """Whether members of `inner` are nested in those of `outer`: codes [..., slots], broadcast or in pairs."""
        inner = np.asarray(inner, dtype=np.int64)
        depth = self.slot(DEPTH)
        active = self.active_at[inner[..., depth] if depth is not None else 0]
        return ((inner >= np.asarray(outer)) | ~active).all(axis=-1)

    @property
    def is_even(self) -> bool:
        """Whether every member has one width per axis."""
        return len(self.slots) == len(self.even_shape)

    @cached_property
    def even_shape(self) -> tuple[int, ...]:
        """Choices of each free axis: the grid of the members with one width per axis."""
        return tuple(len(self.choices[a]) for a in self.axes if self.positions(a))

    def even_codes(self, start: int, stop: int) -> np.ndarray:
        """Codes of the members `start` to `stop` of the grid of all uniform members, integers [n, slots]."""
        rows = np.arange(start, min(stop, math.prod(self.even_shape)))
        grid = np.stack(np.unravel_index(rows, self.even_shape or (1,)), axis=-1)
        free = [a for a in self.axes if self.positions(a)]
        return grid[:, [free.index(s.axis) for s in self.slots]]

    @cached_property
    def even(self) -> np.ndarray:
        """All of `even_codes`."""
        return self.even_codes(0, math.prod(self.even_shape))

    def __contains__(self, member: Subnet) -> bool:
        try:
            self.encode(member)
        except ElasticError:
            return False
        return True

    def price(self, budget: Budget) -> Price:
        """The function member -> exact cost under a budget (cached)."""
        key = repr(budget)
        if key not in self._prices:
            self._prices[key] = Price(self, budget)
        return self._prices[key]

    def check_budgets(self, budgets: Sequence[Budget]) -> None:
        """Raise `ElasticError` for the first budget that even the smallest member exceeds, with that member's cost."""
        for budget in budgets:
            self.price(budget).check()


class LimitPrice:
    """Exact cost of the members of a space under one limit, in its unit (parameters or bytes).

    Attributes:
        limit: the limit of the prices.
        target: the most that it may be; whole: the parent's cost.
        base: cost outside the layers, float64 [hidden choices].
        layers: layers of equal cost at equal widths, by name: their kind, followed by a number
            where others of the type cost something else.
        rows: the same names -> which of the layers of their type they are.
        tables: the same names -> cost of such a layer, float64 [hidden choices, choices of each axis of the kind].
    """

    def __init__(self, space: Space, limit: Limit) -> None:
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
        """Name of a group of equal cost -> positions of its layers; see `layers`."""
        full, alike = self.space.parent.full, dict[tuple[str, float], list[int]]()
        for i, layer in enumerate(full.layers):
            cost = float(self.limit.cost(self.space.parent, Subnet(full.hidden, (layer,))))
            alike.setdefault((layer.type, cost), []).append(i)
        out: dict[str, np.ndarray] = {}
        for (kind, _), layers in alike.items():
            others = sum(name.rstrip("0123456789") == kind for name in out)
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
            """Choices on an axis: [n, 1], or [n, layers] where it differs per layer."""
            slots = self.space.positions(axis)
            return codes[:, slots] if slots else rigid

        h, kept = chosen(HIDDEN), self.space.kept[chosen(DEPTH)[:, 0]]
        total = self.base[h[:, 0]]
        for name, table in self.tables.items():
            widths = [chosen(axis) for axis in self.space.parent.kind(self.kind(name)).widths]
            each = table[(h, *(column if column.shape[1] == 1 else column[:, self.rows[name]] for column in widths))]
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
        budget: its limits are priced.
        limits: the price of each of its limits.
        target: the most that it may be, 1 of several limits; whole: the parent's cost.
    """

    def __init__(self, space: Space, budget: Budget) -> None:
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
        """Cost of codes by limit, integers [n, slots] -> float64 [n, limits], to compare with `target`."""
        costs = [limit.codes(codes)[:, None] for limit in self.limits]
        return costs[0] if len(costs) == 1 else np.concatenate(costs, axis=1) / self.units

    def codes(self, codes: np.ndarray) -> np.ndarray:
        """Cost of codes, integers [n, slots] -> float64 [n]."""
        return self.each(codes).max(axis=1)

    @cached_property
    def even_fits(self) -> np.ndarray:
        """Which of the space's even members meet the budget, bool [n]."""
        return self.codes(self.space.even) <= self.target

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
            nearest = (f"{x.limit.words(least)} ({least / x.whole:.4g} of the parent)" for x, least in short)
            raise bad(
                f"elastic.budgets[{self.budget.name}]",
                {limit.limit.field: limit.limit.value for limit, _ in short},
                f"the nearest that the axes reach are {' and '.join(nearest)}; raise them or add smaller choices",
            )
