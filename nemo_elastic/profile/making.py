# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A table of latencies, entry by entry: what was measured is written at once, and a later call goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import inf, isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_elastic.core.family import Parent
from nemo_elastic.core.latency import FORMAT, OUTSIDE, PHASES, LatencyTable, Workload
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.read import read_json
from nemo_elastic.io.write import atomic_write

from .cells import Widths, cells, layers_for, model_of
from .timing import Stop, difference

if TYPE_CHECKING:
    from .engines import Engine

__all__ = ["begun", "empty_table", "measure", "save"]

#: what two tables must have alike for one to be the rest of the other: what was asked, and what ran
ASKED, RAN = ("format", "source", "parent", "engine", "workload"), ("hardware", "versions")


def empty_table(parent: Parent, widths: Widths, source: str, engine: str, work: Workload) -> dict[str, Any]:
    """A table in which nothing is measured."""
    grids: dict[str, Any] = {}
    for name, axes in widths.items():
        grids[name] = {"axes": {axis: list(each) for axis, each in axes.items()}}
        grids[name] |= {key: [None] * prod(map(len, axes.values())) for key in (*PHASES, "bounds")}
    head = {"format": FORMAT, "parent": parent.to_json(), "source": source, "engine": engine}
    return head | {"hardware": "", "versions": {}, "workload": vars(work).copy(), "grids": grids}


def save(file: Path, table: Mapping[str, Any]) -> None:
    """Write a table, whole or not at all."""
    atomic_write(file, json.dumps(table, indent=1) + "\n")


def begun(file: Path, table: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call had measured of the same table; the table as it would begin where there is none.

    Raises:
        ElasticError: another table is there, or a finished one.
    """
    if not file.exists():
        return table
    old = read_json(file)
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
    """Measure what a table of `begun` lacks, and write it after each entry.

    `progress` is given how many entries are done, of how many, and which is measured: before it and behind it.

    Raises:
        ElasticError: the engine does not run a model, the table was begun with other versions or elsewhere, or an
            entry's interval is open after the seconds of `stop`; none are: one round was asked for.
    """
    every, grids = list(cells(widths)), table["grids"]
    left = [cell for cell in every if grids[cell.kind][PHASES[0]][cell.place] is None]
    for done, cell in enumerate(left, len(every) - len(left)):
        progress(done, len(every), f"{engine.name}: {cell}")
        outside, own = cell.kind == OUTSIDE, grids[cell.kind]
        number = layers_for(parent, cell, widths, engine.work.dtype)
        with ExitStack() as loaded:
            models = []
            for count in (number, 2 * number):
                models.append(engine.load(*model_of(parent, cell, count, widths)))
                loaded.callback(models[-1].close)
            _check_facts(file, table, engine)
            taken = difference(models[0], models[1], engine.work, stop, rest=outside)
        bound = max(taken.bounds[p] / taken.first[p] if taken.first[p] > 0 else inf for p in PHASES)
        if stop.seconds and bound == inf:
            more = (
                f"more: the interval of {cell} is open after {taken.rounds} rounds; or 0 for one round of each entry"
            )
            raise bad("--seconds", stop.seconds, more)
        for phase, seconds in taken.seconds.items():
            own[phase][cell.place] = seconds / (1 if outside else number)
        own["bounds"][cell.place] = bound if isfinite(bound) else None
        save(file, table)
        progress(done + 1, len(every), f"{engine.name}: {cell}")
    return LatencyTable.read(str(file), table)


def _check_facts(file: Path, table: dict[str, Any], engine: Engine) -> None:
    """Note what runs, or find that another machine or release began the table."""
    if not table["hardware"]:
        table |= engine.facts
    for key in RAN:
        if table[key] != engine.facts[key]:
            raise bad(f"{file}: {key}", table[key], f"here it is {engine.facts[key]!r}; --force begins anew")
