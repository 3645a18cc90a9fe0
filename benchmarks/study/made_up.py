# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Made-up losses of members, and the best member under each of them, for the study of the router's schedule.

A loss is a sum: what each layer loses by each step down of its widths, what it loses when it is dropped, and what the
residual stream loses. So the best member of a budget is known exactly, which no trained model offers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mlp import FFN, MLP
from nemo_elastic.core.kinds.registry import AXES, DEPTH, HIDDEN, KINDS, layer_axes
from nemo_elastic.search import Price, Space
from nemo_elastic.search.price import LimitPrice
from nemo_elastic.search.space import Code

#: standard deviation of the logarithm of what a width is worth per parameter; half of its variance is its axis's
SPREAD = 1.0
#: what is left of a width's value at a share x of it is x**k; k is sampled from here, per layer and axis
CURVES = (0.2, 0.8)


@dataclass(frozen=True)
class MadeUp:
    """An additive loss over a space, in nats.

    Attributes:
        space: what it speaks of.
        lost: axis -> nats lost by each step from a choice to the next smaller one, float64 [slots or layers, steps];
            hidden has one row, the others one per layer of the axis's type, whether layers choose alone or together.
        dropped: nats lost where a layer is dropped, float64 [layers]; more than its widths can lose.
    """

    space: Space
    lost: dict[str, np.ndarray]
    dropped: np.ndarray

    def table(self, axis: str) -> np.ndarray:
        """Nats lost by each choice, [rows, choices]."""
        return np.concatenate([np.zeros((len(self.lost[axis]), 1)), self.lost[axis].cumsum(axis=1)], axis=1)

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Losses of codes, integers [n, slots] -> float64 [n]."""
        codes, space = np.atleast_2d(codes), self.space

        def chosen(axis: str) -> np.ndarray:
            slots = space.positions(axis)
            return codes[:, slots] if slots else np.zeros((len(codes), 1), dtype=np.int64)

        kept = space.kept[chosen(DEPTH)[:, 0]]
        total = (~kept) @ self.dropped + self.table(HIDDEN)[0, chosen(HIDDEN)[:, 0]]
        for axis in (axis for axis in layer_axes() if axis in self.lost):
            layers = space.layers_of(axis)
            if layers:
                each = self.table(axis)[np.arange(len(layers)), chosen(axis)]
                total = total + (each * kept[:, layers]).sum(axis=1)
        return total

    def scaled(self, nats: float) -> MadeUp:
        """The same with so many nats between the parent and the smallest member."""
        factor = nats / float(self(self.space.sizes - 1)[0])
        return MadeUp(self.space, {a: factor * t for a, t in self.lost.items()}, factor * self.dropped)


def make_up(
    config: ElasticConfig, parent: Parent, seed: int, agreement: float = 0.7, nats: float = 1.0
) -> tuple[MadeUp, MadeUp]:
    """A loss, and what an untrained search would take it for.

    Every axis of every layer is worth what it costs in parameters, times a log-normal factor of its axis and of the
    layer. The other loss has other factors, and the drop order of the space is by it, as a ranking's is.

    Args:
        config: block; its first budget below the parent prices the widths.
        parent: shape.
        seed: of all samples.
        agreement: rank correlation of the factors of the two losses.
        nats: loss of the smallest member over the parent's.

    Returns:
        The loss and the misjudged one, over the same space.
    """
    rng = np.random.default_rng([seed, 0x5C4ED])
    pearson = 2 * np.sin(np.pi / 6 * agreement)  # of normal variables with that rank correlation
    axes = config.resolve_axes(parent)
    plain = Space(parent, axes, tuple(range(parent.num_layers)))
    price = plain.price(config.budgets[1]).limits[0]

    def factors(size: int) -> np.ndarray:
        """[two losses, size], correlated."""
        a, b = rng.standard_normal((2, size))
        return np.stack([a, pearson * a + np.sqrt(1 - pearson**2) * b])

    worth: dict[str, np.ndarray] = {}
    curve: dict[str, np.ndarray] = {}
    own = [axis for axis in layer_axes() if axis in parent.axes]
    for axis in (HIDDEN, *own):
        rows = 1 if axis == HIDDEN else len(plain.layers_of(axis))
        mixed = (factors(1) + factors(rows)) * SPREAD / np.sqrt(2)
        worth[axis] = _cost(price, axis) * np.exp(mixed)
        curve[axis] = rng.uniform(*CURVES, size=rows)
    dropped = np.zeros((2, parent.num_layers))
    for axis in own:
        dropped[:, list(plain.layers_of(axis))] += worth[axis]
    space = Space(parent, axes, [int(i) for i in np.argsort(dropped[1], kind="stable")])
    return tuple(  # type: ignore[return-value]
        MadeUp(space, {a: worth[a][i][:, None] * _steps(space, a, curve[a]) for a in worth}, dropped[i]).scaled(nats)
        for i in range(2)
    )


def _cost(price: LimitPrice, axis: str) -> float:
    """Share of the parent's cost that an axis rules, in one layer; Mamba's heads and their channels share theirs."""
    if axis == HIDDEN:
        return 1.0
    kind, _ = layer_axes()[axis]
    whole = float(price.tables[kind.name].flat[0]) if kind.name in price.tables else 0.0
    return whole / price.whole / len(price.space.parent.kind(kind.name).axes)


def _steps(space: Space, axis: str, curves: np.ndarray) -> np.ndarray:
    """Share of an axis's worth that each step down loses, [rows, steps]: concave, the first steps lose least."""
    shares = np.array(space.choices[axis]) / space.choices[axis][0]
    return -np.diff(shares[None] ** curves[:, None], axis=1)


# ---------------------------------------------------------------------------------------------------------- the best


def best(loss: MadeUp, price: Price) -> Code:
    """The code with the least loss under a budget: all combinations of what is one for the model, and for an FFN width
    per layer a knapsack.

    Raises:
        ValueError: another axis than the FFN's is per layer.
    """
    space = loss.space
    per_layer = [a for a in AXES if space.per_layer[a] and space.positions(a)]
    if set(per_layer) - {FFN}:
        raise ValueError("the best member is known where only the FFN's width is per layer")
    chosen, least = None, np.inf
    for depth in range(len(space.choices[DEPTH])):
        knapsack = _Knapsack(loss, price, depth) if per_layer else None
        singles = [a for a in AXES if space.positions(a) and a not in per_layer]
        for code in _codes(space, singles, depth):
            # without its FFNs where they are filled afterwards: at their smallest
            room, own = price.target - price.codes(code)[0], loss(code)[0]
            if room < 0:
                continue
            if knapsack is not None:
                own += knapsack.gain(room, space.index(code, HIDDEN))
            if own < least:
                least = own
                chosen = code if knapsack is None else knapsack.fill(code, room, space.index(code, HIDDEN))
    assert chosen is not None, "no member meets the budget"
    return tuple(int(i) for i in chosen)


def _codes(space: Space, axes: list[str], depth: int) -> Iterator[np.ndarray]:
    """All codes of one depth over some axes; the others at their smallest."""
    choices = [(depth,) if a == DEPTH else range(len(space.choices[a])) for a in axes]
    for picked in product(*choices):
        code = space.sizes - 1
        for axis, i in zip(axes, picked, strict=True):
            code[list(space.positions(axis))] = i
        yield code


class _Knapsack:
    """The least loss of FFN widths per layer for every sum of widths, at one depth."""

    def __init__(self, loss: MadeUp, price: Price, depth: int) -> None:
        space = loss.space
        self.widths = np.array(space.choices[FFN])
        self.unit = int(np.gcd.reduce(self.widths[:-1] - self.widths[-1]))
        self.units = (self.widths - self.widths[-1]) // self.unit
        tables = price.limits[0].tables[MLP]
        tables = tables - tables[:, -1:]
        self.per_unit = tables[:, 0] / self.units[0]
        assert np.allclose(tables, self.per_unit[:, None] * self.units), "an FFN's cost is linear in its width"
        self.rows = [r for r, layer in enumerate(space.layers_of(FFN)) if space.kept[depth, layer]]
        self.slots = np.array(space.positions(FFN))
        gains = loss.table(FFN) - loss.table(FFN)[:, -1:]  # below zero: loss over that of the smallest width
        self.least = np.zeros((len(self.rows) + 1, len(self.rows) * self.units[0] + 1))
        self.picked = np.zeros(self.least.shape, dtype=np.int64)
        for n, row in enumerate(self.rows):
            options = np.full((len(self.units), self.least.shape[1]), np.inf)
            for i, u in enumerate(self.units):
                options[i, u:] = self.least[n, : options.shape[1] - u] + gains[row, i]
            self.least[n + 1], self.picked[n + 1] = options.min(axis=0), options.argmin(axis=0)

    def _sum(self, room: float, hidden: int) -> int:
        return min(int(room / self.per_unit[hidden] + 1e-9), self.least.shape[1] - 1)

    def gain(self, room: float, hidden: int) -> float:
        """Least loss with so much cost to spend, over that of the smallest widths."""
        return float(self.least[-1, self._sum(room, hidden)])

    def fill(self, code: np.ndarray, room: float, hidden: int) -> np.ndarray:
        """The code with the widths that have it."""
        left, out = self._sum(room, hidden), code.copy()
        for n in range(len(self.rows), 0, -1):
            choice = self.picked[n, left]
            out[self.slots[self.rows[n - 1]]] = choice
            left -= self.units[choice]
        return out


assert KINDS[MLP].widths == (FFN,)
