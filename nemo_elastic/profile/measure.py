# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A table of latencies, measured entry by entry.

An entry is a kind of layer at chosen widths. Two models that differ only in the number of these layers take turns, and
the measurement ends when the confidence interval of the difference is narrow. Every entry is written at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, make_dataclass, replace
from itertools import product
from math import comb, inf, isfinite, prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import DTYPE_BYTES, parameters
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.latency import DECODE, FORMAT, OUTSIDE, PHASES, PREFILL, LatencyTable, Workload
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.fields import read
from nemo_elastic.io.read import read_json
from nemo_elastic.io.write import atomic_write

__all__ = [
    "Cell", "Difference", "Model", "Stop", "Widths", "cells", "difference", "empty_table", "layer_of", "layers_for",
    "measure", "model_of", "phases", "resume", "save", "widths_of",
]  # fmt: skip

#: `OUTSIDE` and names of kinds -> axis -> widths, ascending; the residual width first
Widths = Mapping[str, Mapping[str, Sequence[int]]]
#: entries of the vocabulary of models that measure layers: embedding and head only add noise there
VOCABULARY = 256
#: fewest layers of the smaller model, the most, and bytes that its weights should have: a part of what lies in a
#: processor's caches is read faster than it is in a whole model (by a fifth, where all weights were 300 MB)
FEW, MANY, LARGE = 2, 32, 4.5e8
#: maximum timed tokens of an answer, in its middle
TIMED = 16
#: fields that two tables must share for one to complete the other
ASKED, RAN = ("format", "source", "parent", "engine", "workload"), ("hardware", "versions")
#: lists of a grid
KEPT = (*PHASES, "bounds")
#: a table that may not be finished
_Grid = make_dataclass("_Grid", [("axes", Any), *((key, tuple[float | None, ...]) for key in KEPT)])
_Table = make_dataclass(
    "_Table", [*((key, Any) for key in (*ASKED, "versions")), ("hardware", str), ("grids", Mapping[str, _Grid])]
)


# ------------------------------------------------------------------ entries


@dataclass(frozen=True)
class Cell:
    """One entry of a table: a kind of layer, or the parts outside layers, at one width of each axis.

    Attributes:
        kind: its name, or `OUTSIDE`.
        place: in the lists of the kind.
        widths: axis -> choice, the residual width first.
    """

    kind: str
    place: int
    widths: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.kind} {' x '.join(map(str, self.widths.values()))}"


def widths_of(parent: Parent, axes: Mapping[str, AxisConfig], most: int) -> Widths:
    """Widths that are measured: of each axis the smallest and the largest choice and some between, `most` in all."""

    def some(axis: str) -> tuple[int, ...]:
        every = sorted(axes[axis].choices)
        wanted = np.linspace(every[0], every[-1], min(most, len(every)))
        return tuple(sorted({min(every, key=lambda width, at=at: abs(width - at)) for at in wanted}))

    kinds = {name: parent.kind(name).widths for name in dict.fromkeys(parent.types)} | {OUTSIDE: ()}
    return {name: {axis: some(axis) for axis in (HIDDEN, *own)} for name, own in kinds.items()}


def cells(widths: Widths) -> Iterator[Cell]:
    """Every entry, those outside of layers last."""
    for kind, axes in widths.items():
        for place, chosen in enumerate(product(*axes.values())):
            yield Cell(kind, place, dict(zip(axes, chosen, strict=True)))


def layers_for(parent: Parent, cell: Cell, widths: Widths, dtype: str) -> int:
    """How many layers the smaller of both models has of what differs: of a cell's kind, or of each for `OUTSIDE`."""
    least, more = (parameters(*model_of(parent, cell, number, widths)) for number in (1, 2))
    wanted = LARGE / DTYPE_BYTES[dtype] - (least if cell.kind == OUTSIDE else 0)
    return int(min(MANY, max(FEW, -(-wanted // (more - least)))))


def layer_of(parent: Parent, cell: Cell) -> Subnet:
    """A member that is the embedding, one layer of a cell and the head."""
    return Subnet(cell.widths[HIDDEN], (_layer(parent, parent.types.index(cell.kind), cell.kind, cell.widths),))


def model_of(parent: Parent, cell: Cell, number: int, widths: Widths) -> tuple[Parent, Subnet]:
    """A model for measuring a cell: a parent and the member that runs.

    It has `count` layers of the cell's kind, or of each kind for `OUTSIDE`. As engines need hybrids, there is one
    layer of each other kind, with the smallest of `widths`.
    """
    others = [name for name in dict.fromkeys(parent.types) if name != cell.kind]
    names = others * number if cell.kind == OUTSIDE else [*others, *[cell.kind] * number]
    vocabulary = parent.vocab if cell.kind == OUTSIDE else min(parent.vocab, VOCABULARY)
    pattern = "".join(parent.kind(name).symbol for name in names)
    shape = replace(parent, pattern=pattern, sizes=dict(parent.sizes) | {"vocab": vocabulary})
    choices = {name: {axis: least for axis, (least, *_) in axes.items()} for name, axes in widths.items()}
    choices[cell.kind] = dict(cell.widths)
    layers = tuple(_layer(shape, i, name, choices[name]) for i, name in enumerate(names))
    return shape, Subnet(cell.widths[HIDDEN], layers).validate(shape)


def _layer(parent: Parent, index: int, kind: str, choices: Mapping[str, int]) -> Layer:
    return Layer(index, kind, parent.widths(kind, {axis: choices[axis] for axis in parent.kind(kind).widths}))


# ------------------------------------------------------------------ times


class Model(Protocol):
    """A model in an engine, ready to answer."""

    def seconds(self, prompt: int, new: int) -> float:
        """Wall-clock seconds to generate `new` tokens for each prompt of a batch; each prompt has `prompt` tokens."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Where models run: see `engines.Engine`."""

    name: str
    work: Workload
    facts: dict[str, Any]

    def load(self, parent: Parent, member: Subnet) -> Model: ...


@dataclass(frozen=True)
class Stop:
    """When a difference is known well enough.

    Attributes:
        tolerance: half of the interval for the median, over the time of the smaller model.
        rounds: minimum and maximum; from six on the interval has 95% confidence.
        seconds: time limit for rounds after the minimum; 0: a single round without an interval.
    """

    tolerance: float = 0.01
    rounds: tuple[int, int] = (6, 30)
    seconds: float = 60.0


@dataclass(frozen=True)
class Difference:
    """How much longer the second model takes, or what the first has besides that.

    Attributes:
        seconds: phase -> median; bounds: half of its interval of 95 %.
        first: phase -> median of the first model.
        rounds: that were measured.
    """

    seconds: Mapping[str, float]
    bounds: Mapping[str, float]
    first: Mapping[str, float]
    rounds: int


def phases(model: Model, work: Workload) -> np.ndarray:
    """Seconds of a model by phase, float64 [phases]: prompts to the first token, a token in the middle of answers."""
    timed = min(TIMED, max(1, work.answer - 1))
    before = work.prompt + max(0, work.answer - 1 - timed) // 2
    first = model.seconds(work.prompt, 1)
    start = first if before == work.prompt else model.seconds(before, 1)
    by_phase = {PREFILL: first, DECODE: (model.seconds(before, 1 + timed) - start) / timed}
    return np.array([by_phase[phase] for phase in PHASES])


def difference(first: Model | None, second: Model, work: Workload, stop: Stop, rest: bool = False) -> Difference:
    """Time of the second model minus that of the first, or without a first the time of the second.

    They take turns in alternating order, so that a slower machine affects both. The first round is warm-up.
    With `rest` it is what the first takes without that difference: where the second has all layers twice, what is
    outside of them.
    """
    models = [m for m in (first, second) if m is not None]
    for model in models:
        phases(model, work)
    began, rounds = time.perf_counter(), []
    while True:
        order = models if len(rounds) % 2 else models[::-1]
        taken = {id(model): phases(model, work) for model in order}
        rounds.append([taken[id(model)] for model in models])
        each = np.array(rounds)  # [rounds, models, phases]
        gained = each[:, -1] - each[:, 0] if first is not None else each[:, 0]
        gained = each[:, 0] - gained if rest else gained
        middle, half = np.median(gained, axis=0), _half(gained)
        base = np.median(each[:, 0], axis=0)
        late = time.perf_counter() - began > stop.seconds
        enough = len(rounds) >= stop.rounds[0] and (late or bool((half <= stop.tolerance * base).all()))
        if enough or not stop.seconds or len(rounds) >= stop.rounds[1]:
            named = [_named(values) for values in (middle, half, base)]
            return Difference(*named, rounds=len(rounds))


def _named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(PHASES, map(float, values), strict=True))


def _half(samples_np: np.ndarray) -> np.ndarray:
    """Half of the 95% confidence interval of the median, between order statistics, for any distribution."""
    ordered, n = np.sort(samples_np, axis=0), len(samples_np)
    # probability that the median is outside the k-th smallest and k-th largest of n samples
    missed = {k: 2 * sum(comb(n, i) for i in range(k)) / 2**n for k in range(n // 2, 0, -1)}
    low = next((k for k, chance in missed.items() if chance <= 0.05), None)
    return np.full(samples_np.shape[1], np.inf) if low is None else (ordered[n - low] - ordered[low - 1]) / 2


# ------------------------------------------------------------------ the table


def empty_table(parent: Parent, widths: Widths, source: str, engine: str, work: Workload) -> dict[str, Any]:
    """A table in which nothing is measured."""
    grids: dict[str, Any] = {}
    for name, axes in widths.items():
        grids[name] = {"axes": {axis: list(each) for axis, each in axes.items()}}
        grids[name] |= {key: [None] * prod(map(len, axes.values())) for key in KEPT}
    head = {"format": FORMAT, "parent": parent.to_json(), "source": source, "engine": engine}
    return head | {"hardware": "", "versions": {}, "workload": vars(work).copy(), "grids": grids}


def save(file: Path, table: Mapping[str, Any]) -> None:
    """Write a table, whole or not at all."""
    atomic_write(file, json.dumps(table, indent=1) + "\n")


def resume(file: Path, table: dict[str, Any]) -> dict[str, Any]:
    """The table with the entries that an earlier call measured; unchanged without a file.

    Raises:
        ElasticError: another table is there, or a finished one.
    """
    if not file.exists():
        return table
    old = read_json(file)
    try:
        grids = read(_Table, old, "").grids
    except ElasticError as exc:
        raise ElasticError(f"is not a table of latencies ({exc}); --force replaces it", file) from None
    for key in ASKED:
        if old[key] != table[key]:
            raise bad(f"{file}: {key}", old[key], f"{table[key]!r} continues the table; --force starts a new one")
    sizes = {name: [grid["axes"], *(len(grid[key]) for key in KEPT)] for name, grid in table["grids"].items()}
    if {name: [grid.axes, *(len(getattr(grid, key)) for key in KEPT)] for name, grid in grids.items()} != sizes:
        raise ElasticError("has other widths; --force starts a new table", file)
    if not any(None in getattr(grid, phase) for grid in grids.values() for phase in PHASES):
        raise ElasticError("already exists; --force replaces it", file)
    return old


def measure(
    file: Path, table: dict[str, Any], parent: Parent, widths: Widths, engine: Engine, stop: Stop,
    progress: Callable[[int, int, str], None],
) -> LatencyTable:  # fmt: skip
    """Measure the entries that a table lacks, and write it after each.

    `progress` gets how many entries are done, of how many, and which is measured, before an entry and after it.

    Raises:
        ElasticError: the engine cannot run a model, or the table was begun with other versions or on another machine.
    """
    every, grids = list(cells(widths)), table["grids"]
    left = [cell for cell in every if None in (grids[cell.kind][phase][cell.place] for phase in PHASES)]
    for done, cell in enumerate(left, len(every) - len(left)):
        progress(done, len(every), f"{engine.name}: {cell}")
        outside, grid = cell.kind == OUTSIDE, grids[cell.kind]
        number = layers_for(parent, cell, widths, engine.work.dtype)
        with ExitStack() as loaded:
            models = []
            for count in (number, 2 * number):
                models.append(engine.load(*model_of(parent, cell, count, widths)))
                loaded.callback(models[-1].close)
            _check_facts(file, table, engine)
            taken = difference(models[0], models[1], engine.work, stop, rest=outside)
        bound = max(taken.bounds[p] / taken.first[p] if taken.first[p] > 0 else inf for p in PHASES)
        for phase, seconds in taken.seconds.items():
            grid[phase][cell.place] = seconds / (1 if outside else number)
        grid["bounds"][cell.place] = bound if isfinite(bound) else None
        save(file, table)
        progress(done + 1, len(every), f"{engine.name}: {cell}")
    return LatencyTable.read(str(file), table)


def _check_facts(file: Path, table: dict[str, Any], engine: Engine) -> None:
    """Note what runs, or find that another machine or release began the table."""
    if not table["hardware"]:
        table |= engine.facts
    for key in RAN:
        if table[key] != engine.facts[key]:
            raise bad(
                f"{file}: {key}",
                table[key],
                f"on this machine it is {engine.facts[key]!r}; --force starts a new table",
            )
