# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes between members: one path of nested shapes from a family's largest member to its smallest.

The path passes through the members in order. Between two members all axes shrink in proportion, in small steps: step i
of an axis with n steps comes at (i - 1/2)/n of the way. As each step only removes something, parameters and memory
under any `MemorySpec` strictly decrease, and bisection finds the largest shape within a limit. The path follows from
the manifest alone.

Between two uniform members (one width per axis for all layers) every shape is uniform: all layers of a kind shrink
together, as the plain `nemotron_h` format and vLLM need. Layers of different widths shrink one by one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from math import gcd, lcm
from typing import overload

import numpy as np

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, layer_axes
from nemo_elastic.core.manifest import Family

__all__ = ["SubnetPath", "path"]

#: stands for a layer index: all layers of the kind, or the model
ALL = -1
#: a step is at most 1/FINE of the parent's width
FINE = 32
#: axis -> multiple that kernels prefer; 8 for the other axes
ALIGNED = {HIDDEN: 64}


@dataclass(frozen=True)
class _Lane:
    """An axis of one layer, or of all, that shrinks between two members: width `start` - i `step` after i moves."""

    axis: str
    layer: int
    start: int
    stop: int
    step: int

    def __len__(self) -> int:
        return (self.start - self.stop) // self.step


@dataclass(frozen=True)
class _Segment:
    """The path from one member to the next.

    Attributes:
        parent: of both members.
        upper, lower: the two members; lower is nested in upper.
        lanes: differing axes, ordered by axis and layer, which breaks ties.
        dropped: layers that only `upper` has, in the order in which they are dropped.
    """

    parent: Parent
    upper: Subnet
    lower: Subnet
    lanes: tuple[_Lane, ...]
    dropped: tuple[int, ...]

    @cached_property
    def moves(self) -> np.ndarray:
        """The lane that moves at each step, int64 [steps]."""
        # Quotients of small integers: equal times are equal floats, so the stable sort leaves ties in lane order.
        times = [(2 * np.arange(len(lane)) + 1) / (2 * len(lane)) for lane in self.lanes]
        lanes = np.repeat(np.arange(len(self.lanes)), [len(lane) for lane in self.lanes])
        return lanes[np.argsort(np.concatenate(times), kind="stable")] if times else lanes

    def __len__(self) -> int:
        return sum(len(lane) for lane in self.lanes)

    def at(self, step: int) -> Subnet:
        """The shape after `step` steps: 0 is `upper`, the last is `lower`."""
        counts = np.bincount(self.moves[:step], minlength=len(self.lanes)).tolist()
        moved = {(x.axis, x.layer): x.start - n * x.step for x, n in zip(self.lanes, counts, strict=True) if n}
        kept = moved.pop((DEPTH, ALL), len(self.upper.layers))
        gone = set(self.dropped[: len(self.upper.layers) - kept])
        layers = tuple(self._moved(layer, moved) for layer in self.upper.layers if layer.index not in gone)
        return Subnet(moved.get((HIDDEN, ALL), self.upper.hidden), layers)

    def _moved(self, layer: Layer, moved: dict[tuple[str, int], int]) -> Layer:
        # a layer that is dropped later may already be narrower: it must not grow
        choices = {
            axis: min(choice, moved.get((axis, layer.index), moved.get((axis, ALL), choice)))
            for axis, choice in self.parent.choices(layer).items()
        }
        return replace(layer, widths=self.parent.widths(layer.type, choices))


class SubnetPath(Sequence[Subnet]):
    """Nested shapes down to the smallest member, each cheaper than the one before; see the module.

    Args:
        family: Gives the members.
        segments: From each member to the next.
        inside: Only the shapes inside this one; all when None.
    """

    def __init__(self, family: Family, segments: Iterable[_Segment], inside: Subnet | None = None) -> None:
        self.family = family
        self._segments = tuple(segments)
        #: place of each member on the path
        self._starts = (0, *accumulate(len(s) for s in self._segments))
        #: place of the first shape inside `inside`; all later ones are nested in it
        self._first = 0
        if inside is not None:
            self._first = bisect_left(range(len(self)), True, key=lambda i: self[i] <= inside)

    def __len__(self) -> int:
        return self._starts[-1] + 1 - self._first

    @overload
    def __getitem__(self, index: int) -> Subnet: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Subnet, ...]: ...
    def __getitem__(self, index: int | slice) -> Subnet | tuple[Subnet, ...]:
        """Compute one shape, or several."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        at = self._first + range(len(self))[index]  # negative indices and the IndexError
        segment = bisect_right(self._starts, at) - 1
        if segment == len(self._segments):
            return self.family.members[-1].subnet
        return self._segments[segment].at(at - self._starts[segment])

    def between(self, index: int) -> tuple[str, str]:
        """Names of the members above and below a place on the path; the same name twice where it is a member."""
        at = self._first + range(len(self))[index]
        below = bisect_left(self._starts, at)
        above = below if self._starts[below] == at else below - 1
        return self.family.names[above], self.family.names[below]

    def fit(self, limit: float, cost: Callable[[Subnet], float] | None = None) -> int | None:
        """Place of the largest shape whose cost is at most `limit`; None if the smallest member costs more.

        Args:
            limit: Number of parameters, or an amount of `cost`.
            cost: Function of a Subnet that never rises from a shape to one nested in it; parameters when None.
        """
        price = cost or self._parameters
        at = bisect_left(range(len(self)), True, key=lambda i: price(self[i]) <= limit)
        return at if at < len(self) else None

    def _parameters(self, subnet: Subnet) -> int:
        return parameters(self.family.parent, subnet)


def path(family: Family, inside: Subnet | None = None) -> SubnetPath:
    """The path of a family. The same manifest gives the same path.

    Widths shrink in equal steps that reach every choice of the axis (`Family.axes`) and both members, keep whole
    blocks, and are at most 1/32 of the parent's width where multiples of 8 (64 for the residual stream) allow it.
    Layers are dropped one at a time, in the family's drop order, else the last first, and shrink like the others until
    then.

    Args:
        family: Gives axes, members and drop order.
        inside: A shape of the parent, on the path or not: the part of the path inside it. Empty if the smallest member
            is not inside.
    """
    return SubnetPath(family, (_segment(family, a.subnet, b.subnet) for a, b in pairwise(family.members)), inside)


def _segment(family: Family, upper: Subnet, lower: Subnet) -> _Segment:
    lanes = [lane for axis in family.parent.axes for lane in _lanes(family, axis, upper, lower) if len(lane)]
    order = family.drop_order or range(family.parent.num_layers - 1, -1, -1)
    dropped = [i for i in order if i in upper.by_index and i not in lower.by_index]
    return _Segment(family.parent, upper, lower, tuple(lanes), tuple(dropped))


def _lanes(family: Family, axis: str, upper: Subnet, lower: Subnet) -> list[_Lane]:
    """Lanes of one axis, also those of length 0."""
    if axis == DEPTH:
        return [_Lane(axis, ALL, len(upper.layers), len(lower.layers), 1)]
    if axis == HIDDEN:
        ends = {ALL: (upper.hidden, lower.hidden)}
    else:
        kind = layer_axes()[axis][0].name
        both = [(upper.by_index[layer.index], layer) for layer in lower.layers if layer.type == kind]
        choices = family.parent.choices
        ends = {small.index: (choices(large)[axis], choices(small)[axis]) for large, small in both}
        if len(set(ends.values())) == 1:
            ends = {ALL: next(iter(ends.values()))}
    parent = family.parent.axis(axis)
    widths = [*family.axes[axis].choices, *(width for pair in ends.values() for width in pair)]
    step = _step(gcd(*widths), parent.size, lcm(parent.unit, ALIGNED.get(axis, 8)))
    return [_Lane(axis, layer, start, stop, step) for layer, (start, stop) in ends.items()]


def _step(common: int, size: int, unit: int) -> int:
    """Largest divisor of `common` that is at most 1/32 of `size`, a multiple of `unit` if `common` is one."""
    unit = gcd(common, unit)
    most = max(unit, size // FINE)
    return max(unit * n for n in range(1, common // unit + 1) if common // unit % n == 0 and unit * n <= most)
