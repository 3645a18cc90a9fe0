# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A table of latencies, entry by entry: what was measured is written at once, and a later call goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core.family import Parent
from nemo_elastic.core.latency import FORMAT, OUTSIDE, PHASES, LatencyTable, Workload
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.read import read_json

from .cells import Cell, cells, layers_for, model_of, smallest
from .timing import Stop, difference

if TYPE_CHECKING:
    from .engines import Engine

__all__ = ["begun", "empty_table", "measure", "put", "save"]

Widths = Mapping[str, Mapping[str, Sequence[int]]]
#: what two tables must have alike for one to be the rest of the other: what was asked, and what ran
ASKED, RAN = ("format", "source", "parent", "engine", "workload"), ("hardware", "versions")


def empty_table(parent: Parent, widths: Widths, source: str, engine: str, work: Workload) -> dict[str, Any]:
    """A table in which nothing is measured."""
    grids = {}
    for name, axes in widths.items():
        size = int(np.prod([len(each) for each in axes.values()]))
        grids[name] = {"axes": {axis: list(each) for axis, each in axes.items()}}
        grids[name] |= {key: [None] * size for key in (*PHASES, "bounds")}
    head = {"format": FORMAT, "parent": parent.to_json(), "source": source, "engine": engine}
    return head | {"hardware": "", "versions": {}, "workload": vars(work).copy(), "grids": grids}


def save(file: Path, table: Mapping[str, Any]) -> None:
    """Write a table, whole or not at all."""
    atomic_write(file, json.dumps(table, indent=1) + "\n")


def begun(file: Path, table: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call had measured of the same table.

    Args:
        file: where it may be.
        table: as it would begin.

    Returns:
        The table of the file, or the given one where there is none.

    Raises:
        ElasticError: another table is there, or a finished one.
    """
    if not file.exists():
        return table
    old = read_json(file, own=True)
    if not isinstance(old, dict) or "grids" not in old:
        raise ElasticError("already exists and is no table of latencies; --force replaces it", file)
    for key in ASKED:
        if old.get(key) != table[key]:
            raise bad(f"{file}: {key}", old.get(key), f"{table[key]!r} goes on with it; --force begins anew")
    axes = [{name: grid.get("axes") for name, grid in each["grids"].items()} for each in (old, table)]
    if axes[0] != axes[1]:
        raise ElasticError("has other widths; --force begins anew", file)
    if not any(value is None for grid in old["grids"].values() for value in grid[PHASES[0]]):
        raise ElasticError("already exists; --force replaces it", file)
    return old


def measure(
    file: Path, table: dict[str, Any], parent: Parent, widths: Widths, engine: Engine, stop: Stop,
    progress: Callable[[int, int, str], None],
) -> LatencyTable:  # fmt: skip
    """Measure what a table lacks.

    Args:
        file: where it is written after each entry.
        table: of `begun`; it is filled.
        parent: whose layers.
        widths: of `cells.widths_of`.
        engine: where they are run.
        stop: when an entry is known well enough.
        progress: is given how many entries are done, of how many, and what is measured.

    Raises:
        ElasticError: the engine does not run a model, or the table was begun with other versions or elsewhere.
    """
    every = list(cells(widths))
    left = [cell for cell in every if _entry(table, cell, PHASES[0]) is None]
    least = {name: smallest(parent, widths, name) for name in widths if name != OUTSIDE}
    for done, cell in enumerate(left, len(every) - len(left)):
        progress(done, len(every), str(cell))
        number = 1 if cell.kind == OUTSIDE else layers_for(parent, cell)
        models = []
        try:
            for count in (number,) if cell.kind == OUTSIDE else (number, 2 * number):
                models.append(engine.load(*model_of(parent, cell, count, least)))
            _check_facts(file, table, engine)
            first, second = (None, models[0]) if cell.kind == OUTSIDE else models
            taken = difference(first, second, engine.work, stop)
        finally:
            for model in models:
                model.close()
        for phase in PHASES:
            seconds = taken.seconds[phase] / number
            if cell.kind == OUTSIDE:  # the layers of the model are known by now
                seconds -= sum(_smallest_layer(table, name, cell, phase) for name in least)
            put(table, cell, phase, seconds)
        bound = max(taken.bounds[p] / taken.first[p] for p in PHASES)
        put(table, cell, "bounds", bound if isfinite(bound) else None)
        save(file, table)
    return LatencyTable.read(str(file), table)


def _smallest_layer(table: Mapping[str, Any], kind: str, outside: Cell, phase: str) -> float:
    hidden = outside.place[0]
    axes = table["grids"][kind]["axes"]
    return _entry(table, Cell(kind, (hidden, *[0] * (len(axes) - 1)), {}), phase)


def _flat(table: Mapping[str, Any], cell: Cell) -> int:
    shape = [len(each) for each in table["grids"][cell.kind]["axes"].values()]
    return int(np.ravel_multi_index(cell.place, shape))


def _entry(table: Mapping[str, Any], cell: Cell, key: str) -> Any:
    return table["grids"][cell.kind][key][_flat(table, cell)]


def put(table: Mapping[str, Any], cell: Cell, key: str, value: float | None) -> None:
    """Fill an entry: seconds of a phase, or the bounds of both."""
    table["grids"][cell.kind][key][_flat(table, cell)] = value


def _check_facts(file: Path, table: dict[str, Any], engine: Engine) -> None:
    """Note what runs, or find that another machine or release began the table."""
    if not table["hardware"]:
        table |= engine.facts
    for key in RAN:
        if table[key] != engine.facts[key]:
            raise bad(f"{file}: {key}", table[key], f"here it is {engine.facts[key]!r}; --force begins anew")
