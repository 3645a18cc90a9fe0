# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""BlockedPrefix: a nested width k keeps the first k/B channels of each of B equal blocks.

This is the only module that computes an index. `BlockedPrefix` describes one axis. `Selection` describes one dimension
of a tensor: concatenated parts, each a grid of factors that keeps a prefix of every factor ([z | x | B | C | dt] of
Mamba's input projection, [q | k | v] of attention's, interleaved by key-value group). Works on numpy and torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from nemo_elastic.errors import bad
from nemo_elastic.io.values import plain

Array = Any  # numpy.ndarray or torch.Tensor: only reshape, slicing and assignment are used


@dataclass(frozen=True)
class BlockedPrefix:
    """An axis of `size` channels in `blocks` equal blocks; a width k keeps the first k/blocks of each block.

    Attributes:
        size: channels of the full axis.
        blocks: number of equal blocks.
        name: of the axis, for errors.
        least: smallest width.
        multiple_of: further divisor of every width.
    """

    size: int
    blocks: int = 1
    name: str = "width"
    least: int = 1
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.size < 1 or self.size % self.blocks:
            raise bad(self.name, self.size, f"must be a positive multiple of its {self.blocks} blocks")
        if self.least > self.size:
            raise bad(self.name, self.size, f"must be at least {self.least}")

    @property
    def unit(self) -> int:
        """Granularity: every width is a multiple of it."""
        return math.lcm(self.blocks, self.multiple_of)

    def check(self, k: int) -> int:
        """Return `k` if it is a width of this axis, else raise `ElasticError`."""
        k = plain(k)
        unit = self.unit
        if isinstance(k, bool) or not isinstance(k, int) or not self.least <= k <= self.size or k % unit:
            step = f" in multiples of {unit}" if unit > 1 else ""
            first = -(-self.least // unit) * unit
            raise bad(self.name, k, f"allowed are {first} to {self.size}{step}")
        return k

    def grid(self, k: int) -> Grid:
        """Factors (blocks, size/blocks), with (blocks, k/blocks) kept for width `k`."""
        self.check(k)
        return Grid((self.blocks, self.size // self.blocks), (self.blocks, k // self.blocks))

    def order_to_layout(self, order: np.ndarray) -> np.ndarray:
        """Storage order that makes the k most important channels the blocked prefix of every width k.

        Args:
            order: channels from most to least important, shape [size].

        Returns:
            Permutation p of shape [size]: position i of the sorted axis holds channel p[i]. Ranks are dealt to the
            blocks in turn, which is right where channels may change block (FFN stripes); where they may not (heads),
            the order already alternates between blocks, see `ranking.ranking`.
        """
        return np.asarray(order).reshape(self.size // self.blocks, self.blocks).T.reshape(-1)


@dataclass(frozen=True)
class Grid:
    """A part of a dimension: the row-major product of factors `shape` that keeps the prefix `kept` of each factor."""

    shape: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def kept_size(self) -> int:
        return math.prod(self.kept)

    def __mul__(self, other: Grid) -> Grid:
        return Grid(self.shape + other.shape, self.kept + other.kept)

    def indices(self) -> np.ndarray:
        """Kept positions in the full part, ascending."""
        full = np.arange(self.size).reshape(self.shape)
        return full[tuple(slice(k) for k in self.kept)].reshape(-1)

    def shard(self, world: int) -> Grid:
        """One tensor-parallel rank's share: the first factor (blocks) is divided."""
        if self.shape[0] % world or self.kept[0] % world:
            raise bad(
                "tensor_model_parallel_size", world, f"must divide {math.gcd(self.shape[0], self.kept[0])} blocks"
            )
        return Grid((self.shape[0] // world, *self.shape[1:]), (self.kept[0] // world, *self.kept[1:]))

    def take(self, t: Array, dim: int) -> Array:
        """Kept channels of dimension `dim`: a view where the layout allows one, else a copy."""
        if self.shape == self.kept:
            return t
        before, after = tuple(t.shape[:dim]), tuple(t.shape[dim + 1 :])
        cut = t.reshape(before + self.shape + after)[_window(dim, self.kept)]
        return cut.reshape((*before, self.kept_size, *after))


#: a single position
ONE = Grid((1,), (1,))


@dataclass(frozen=True)
class Selection:
    """The kept positions of one tensor dimension: concatenated parts, repeated for each position of `outer`.

    An outer grid of several positions interleaves the parts block by block, as in Megatron's fused query-key-value
    projection.
    """

    parts: tuple[Grid, ...]
    outer: Grid = ONE

    @cached_property
    def size(self) -> int:
        return self.outer.size * sum(p.size for p in self.parts)

    @cached_property
    def kept_size(self) -> int:
        return self.outer.kept_size * sum(p.kept_size for p in self.parts)

    @cached_property
    def is_full(self) -> bool:
        return self.size == self.kept_size

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Kept positions as half-open runs (start, stop), ascending and maximal."""
        i = self.indices
        breaks = np.flatnonzero(np.diff(i) != 1)
        starts = np.concatenate([i[:1], i[breaks + 1]])
        stops = np.concatenate([i[breaks], i[-1:]]) + 1
        return tuple(zip(starts.tolist(), stops.tolist(), strict=True))

    @cached_property
    def indices(self) -> np.ndarray:
        """Kept positions, ascending, int64."""
        offsets, at = [], 0
        for part in self.parts:
            offsets.append(part.indices() + at)
            at += part.size
        inner = np.concatenate(offsets)
        return (self.outer.indices()[:, None] * at + inner).reshape(-1)

    @cached_property
    def is_prefix(self) -> bool:
        """Whether the kept channels are one run from zero, so that a slice is a view."""
        return len(self.runs) == 1 and self.runs[0][0] == 0

    def mask(self) -> np.ndarray:
        """Boolean mask over the full dimension, shape [size]."""
        mask = np.zeros(self.size, dtype=bool)
        mask[self.indices] = True
        return mask

    @cached_property
    def _rows(self) -> dict[Any, Array]:
        """Device -> kept positions as an index tensor; filled by `take`."""
        return {}

    def take(self, t: Array, dim: int = 0) -> Array:
        """Slice `t` along `dim` (length `size`): zero-copy for a prefix, one gather otherwise."""
        if self.is_full:
            return t
        if self.is_prefix:
            return t[_run(dim, 0, self.kept_size)]
        if dim == 0 and not _is_numpy(t):  # whole rows: the fastest gather that torch has
            if t.device not in self._rows:
                import torch

                self._rows[t.device] = torch.from_numpy(self.indices).to(t.device)
            return t.index_select(0, self._rows[t.device])
        cut, shape = [], tuple(t.shape)
        t = t.reshape((*shape[:dim], self.outer.size, -1, *shape[dim + 1 :]))
        t = self.outer.take(t, dim)
        at = 0
        for part in self.parts:
            cut.append(part.take(t[_run(dim + 1, at, at + part.size)], dim + 1))
            at += part.size
        return _concatenate(cut, dim + 1).reshape((*shape[:dim], self.kept_size, *shape[dim + 1 :]))

    def add_(self, full: Array, piece: Array, dim: int = 0) -> None:
        """Add `piece` (a slice made by `take`, or its gradient) into `full` in place, window by window."""
        inner = dim + len(self.outer.shape)
        full = _split(full, dim, (*self.outer.shape, -1))[_window(dim, self.outer.kept)]
        piece = _split(piece, dim, (*self.outer.kept, -1))
        at = at_kept = 0
        for part in self._windows:
            stop, stop_kept = at + part.size, at_kept + part.kept_size
            target = _split(full[_run(inner, at, stop)], inner, part.shape)[_window(inner, part.kept)]
            target += _split(piece[_run(inner, at_kept, stop_kept)], inner, part.kept)
            at, at_kept = stop, stop_kept

    @cached_property
    def _windows(self) -> list[Grid]:
        """The parts, neighbours joined that are one strided window: equal ones as of z and x, or whole ones."""
        joined: list[Grid] = []
        for whole, run in groupby(self.parts, key=lambda part: part.shape == part.kept or part):
            parts = tuple(run)
            count = sum(part.size for part in parts) if whole is True else len(parts)
            each = Grid((count,), (count,))
            joined.append(each if whole is True else each * parts[0])
        return joined

    def in_blocks(self, n: int) -> Selection | None:
        """The selection in units of `n` neighbouring channels, such as packed bytes and blocks of scales.

        Returns:
            The selection of units; None where it would split one.
        """
        if n == 1:
            return self
        if self.size % n or any(start % n or stop % n for start, stop in self.runs):
            return None
        starts = [start // n for start, _ in self.runs]
        ends = [*starts[1:], self.size // n]
        parts = [Grid((starts[0],), (0,))] if starts[0] else []
        kept = ((stop - start) // n for start, stop in self.runs)
        parts += [Grid((end - at,), (k,)) for at, end, k in zip(starts, ends, kept, strict=True)]
        return Selection(tuple(parts))

    def shard(self, world: int) -> Selection:
        """The selection on one of `world` tensor-parallel ranks: each has an equal share of every part."""
        if world == 1:
            return self
        if self.outer.size > 1:
            return Selection(self.parts, self.outer.shard(world))
        return Selection(tuple(p.shard(world) for p in self.parts))

    def shares(self, world: int) -> np.ndarray:
        """Positions of the dimension on each tensor-parallel rank, in the rank's order: [world, size / world]."""
        self.shard(world)
        blocks = [self.size] if self.outer.size > 1 else [part.size for part in self.parts]
        starts = np.cumsum([0, *blocks[:-1]])
        each = [(at + np.arange(n)).reshape(world, -1) for at, n in zip(starts, blocks, strict=True)]
        return np.concatenate(each, axis=1)


#: nested selections of one dimension, the largest first
Chain = tuple[Selection, ...]


@lru_cache(maxsize=1024)
def nested_order(chain: Chain) -> np.ndarray | None:
    """Order of a dimension that makes each of several nested selections a prefix, int64; None if they already are.

    The smallest selection's channels stay in their order. The channels that each larger selection adds are sorted
    along the first axis that is cut, so that widths of that axis between two selections are prefixes, too.
    """
    if all(part.is_full or part.is_prefix for part in chain):
        return None
    kept_by = np.sum([part.mask() for part in chain], axis=0)
    grids = zip(*(part.parts for part in chain), strict=True)
    steps = np.concatenate([_steps(cuts) for cuts in grids])
    steps[kept_by == len(chain)] = 0
    return np.lexsort((steps, -kept_by))


def _steps(cuts: Sequence[Grid]) -> np.ndarray:
    """For each position of a part, its coordinate along the first factor that `cuts` cut; -1 without one."""
    shape = cuts[0].shape
    for axis, size in enumerate(shape):
        if any(grid.kept[axis] < size for grid in cuts):
            return np.indices(shape)[axis].reshape(-1)
    return np.full(cuts[0].size, -1)


def _is_numpy(t: Array) -> bool:
    return isinstance(t, np.ndarray)


def _split(t: Array, dim: int, shape: tuple[int, ...]) -> Array:
    """A view of `t` in which `shape` stands for dimension `dim`."""
    return t.reshape((*t.shape[:dim], *shape, *t.shape[dim + 1 :])) if _is_numpy(t) else t.unflatten(dim, shape)


def _run(dim: int, start: int, stop: int) -> tuple[slice, ...]:
    """Index of positions [start, stop) of dimension `dim`."""
    return (slice(None),) * dim + (slice(start, stop),)


def _window(dim: int, kept: tuple[int, ...]) -> tuple[slice, ...]:
    """Index of a prefix of each of the dimensions from `dim` on."""
    return (slice(None),) * dim + tuple(slice(k) for k in kept)


def _concatenate(parts: list[Array], dim: int) -> Array:
    if len(parts) == 1:
        return parts[0]
    if _is_numpy(parts[0]):
        return np.concatenate(parts, dim)
    import torch  # imported here as numpy callers may have no torch

    return torch.cat(parts, dim)
