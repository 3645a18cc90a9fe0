# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of any member, from a table of measured times by kind of layer and width (`nemo-elastic profile`).

A member's time is the time outside the layers, at its residual width, plus the sum over its layers. So it is a limit
like the others, and the mean over a router's gates is exact where axes are chosen independently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import cached_property
from typing import Annotated, Any
from zlib import crc32

import numpy as np

from nemo_elastic.core.family import Parent, positive
from nemo_elastic.core.kinds.registry import HIDDEN, striped_axes
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.io.fields import Between, check, check_version, known_fields, read
from nemo_elastic.io.read import read_json
from nemo_elastic.io.values import number

__all__ = ["DECODE", "FORMAT", "OUTSIDE", "PHASES", "PREFILL", "REQUEST", "Grid", "LatencyTable", "Workload"]

#: version of a table's file
FORMAT = 1
#: measured phases: a batch's prompts up to the first token, and one more token of each; a request is both together
PREFILL, DECODE, REQUEST = "prefill", "decode", "request"
PHASES = (PREFILL, DECODE)
#: name of the grid for embedding, final norm, head, and a step's fixed time
OUTSIDE = "outside"
#: upper bounds of a table's number of entries and of an entry in seconds
MOST, LONGEST = 2**16, 1e6
#: fields of a file, and of each of its `grids`
_File = make_dataclass("_File", ("format", "parent", "source", "engine", "hardware", "versions", "workload", "grids"))
_Grid = make_dataclass("_Grid", ("axes", *PHASES, ("bounds", Any, None)))


@dataclass(frozen=True)
class Workload:
    """The served batch.

    Attributes:
        batch: number of sequences.
        prompt: tokens per prompt.
        answer: tokens per answer.
        dtype: of the weights.
    """

    batch: Annotated[int, Between(1, 10**9)] = 1
    prompt: Annotated[int, Between(1, 10**9)] = 512
    answer: Annotated[int, Between(1, 10**9)] = 128
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        check(self, "")

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.prompt} + {self.answer} tokens, {self.dtype}"


@dataclass(frozen=True)
class Grid:
    """Seconds by width.

    Attributes:
        name: of the kind of layer, or `OUTSIDE`.
        axes: axis -> measured widths, ascending; the residual width first.
        seconds: phase -> float64 [widths of each axis]; never less for a larger width.
    """

    name: str
    axes: Mapping[str, Sequence[int]]
    seconds: Mapping[str, np.ndarray]
    _known: dict[tuple[int, ...], dict[str, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def at(self, chosen: Mapping[str, int]) -> dict[str, float]:
        """Seconds by phase, interpolated linearly in each width."""
        key = tuple(chosen[axis] for axis in self.axes)
        if key not in self._known:  # the shapes of a path share most layers
            self._known[key] = self._between(chosen)
        return self._known[key]

    def _between(self, chosen: Mapping[str, int]) -> dict[str, float]:
        out = dict(self.seconds)
        for axis, widths in self.axes.items():  # each step contracts the first dimension
            width = chosen[axis]
            if not widths[0] <= width <= widths[-1]:
                raise bad(axis, width, f"the table has widths from {widths[0]} to {widths[-1]}").within(self.name)
            weights = [np.interp(width, widths, one) for one in np.eye(len(widths))]
            out = {phase: np.tensordot(weights, s, 1) for phase, s in out.items()}
        return {phase: float(s) for phase, s in out.items()}


def never_falling(seconds: np.ndarray) -> np.ndarray:
    """Make times non-decreasing in every width; drops are noise.

    The result is the mean of the smallest non-decreasing array above and the largest one below.

    Args:
        seconds: float64, dimensions in ascending order of widths.
    """
    above, below = seconds, seconds
    for axis in range(seconds.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return np.maximum(0.0, (above + below) / 2)


class LatencyTable(dict[str, Any]):
    """The content of a table's file, which budgets and families store.

    Keys: `format`, `parent`, `source` (measured or computed), `engine`, `hardware`, `versions`, `workload`, and
    `grids`: for `outside` and each kind of layer the widths that were measured by axis, and seconds by phase in the
    order of widths, the last axis fastest.
    """

    _checked: Parent | None = None

    @classmethod
    def read(cls, name: str, value: Any) -> LatencyTable:
        """Read and check a table; `value`: path of its file, or its content."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            name, value = value, read_json(value)
        if not isinstance(value, Mapping):
            raise bad(name, value, "a table of `nemo-elastic profile`: its path or its content")
        table = cls(value)
        with inside(name):
            check_version(table, FORMAT, "format")
            known_fields(_File, table, "table")
            for key in ("source", "engine", "hardware"):
                if not isinstance(table[key], str):
                    raise bad(key, table[key], "a text")
            _ = table.parent, table.workload, table.grids
        return table

    @cached_property
    def parent(self) -> Parent:
        """Shape whose layers were measured."""
        return Parent.from_json(self["parent"])

    @cached_property
    def workload(self) -> Workload:
        """Batch and lengths of the measurement."""
        return read(Workload, self["workload"], "workload")

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """Seconds outside the layers, and of one layer of each kind."""
        given, names = self["grids"], dict.fromkeys(self.parent.types)
        wanted = {OUTSIDE: (HIDDEN,)} | {name: (HIDDEN, *self.parent.kind(name).widths) for name in names}
        if not isinstance(given, Mapping) or set(given) != set(wanted):
            raise bad("grids", sorted(given) if isinstance(given, Mapping) else given, ", ".join(sorted(wanted)))
        grids = {name: _read_grid(name, given[name], axes) for name, axes in wanted.items()}
        for phase in PHASES:  # a single entry may be noise, also below 0
            if not any(grid.seconds[phase].flat[-1] for grid in grids.values()):
                raise bad("grids", f"{phase} of 0 seconds or less", "times above 0; make the table again")
        return grids

    def seconds(self, parent: Parent, member: Any) -> dict[str, float]:
        """Seconds of a member by phase, those of a whole answer with them."""
        self._check_parent(parent)
        with inside(f"latency table of {self['engine']}"):
            total = self.grids[OUTSIDE].at({HIDDEN: member.hidden})
            for layer in member.layers:
                times = self.grids[layer.type].at({HIDDEN: member.hidden, **parent.choices(layer)})
                total = {phase: seconds + times[phase] for phase, seconds in total.items()}
        return total | {REQUEST: total[PREFILL] + (self.workload.answer - 1) * total[DECODE]}

    def milliseconds(self, parent: Parent, member: Any, phase: str = DECODE) -> float:
        """Milliseconds of a member in one phase; see `seconds`."""
        return 1e3 * self.seconds(parent, member)[phase]

    def _check_parent(self, parent: Parent) -> None:
        if parent is self._checked:
            return
        measured, given, stripes = self.parent.to_json(), parent.to_json(), striped_axes().values()
        for name in measured | given:
            theirs, ours = measured.get(name), given.get(name)
            layout = name in stripes and None not in (theirs, ours)  # stripes do not change times; None: not an axis
            if theirs != ours and not layout and name != "norm":
                raise bad("latency.table", f"a table of a parent with {name} {theirs}", f"this parent has {ours}")
        self._checked = parent

    def __str__(self) -> str:
        """Engine, hardware and workload."""
        return f"{self['engine']} on {self['hardware']}, {self.workload}"

    @cached_property
    def _digest(self) -> int:
        return crc32(json.dumps(self).encode())

    def __repr__(self) -> str:
        """Engine, hardware and a digest of the figures; the search caches prices by it."""
        return f"<{self.get('engine')} on {self.get('hardware')}, {self._digest:08x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return LatencyTable, (dict(self),)


def _read_grid(name: str, data: Any, axes: Sequence[str]) -> Grid:
    where = f"grids.{name}"
    known = known_fields(_Grid, data, where)
    widths = known["axes"]
    if not isinstance(widths, Mapping) or set(widths) != set(axes):
        raise bad(f"{where}.axes", widths, f"widths of {', '.join(axes)}")
    for axis in axes:
        given = widths[axis]
        listed = isinstance(given, (list, tuple)) and len(given) > 0
        if not listed or not all(type(w) is int and w > before for before, w in zip((0, *given), given, strict=False)):
            raise bad(f"{where}.axes.{axis}", given, "ascending widths, each once")
        positive(f"{where}.axes.{axis}", max(given))
    shape = tuple(len(widths[axis]) for axis in axes)
    if (size := int(np.prod(shape, dtype=np.float64))) > MOST:
        raise bad(f"{where}.axes", size, f"at most {MOST} combinations of widths")
    seconds = {}
    for phase in PHASES:
        given = known[phase]
        if not isinstance(given, (list, tuple)) or len(given) != size:
            raise bad(f"{where}.{phase}", given, f"{size} numbers: one for each combination of widths")
        if left := sum(value is None for value in given):
            raise ElasticError(
                f"{left} of {size} times are not measured yet; run `nemo-elastic profile` again to finish the table",
                where,
            )
        for value in given:
            number(f"{where}.{phase}", value, -LONGEST, LONGEST, "seconds")
        seconds[phase] = never_falling(np.array(given, dtype=np.float64).reshape(shape))
    return Grid(name, {axis: tuple(widths[axis]) for axis in axes}, seconds)
