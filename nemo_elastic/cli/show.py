# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What several commands print: tables of members, a bar while bytes are written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from nemo_elastic.cli.log_capture import console_on
from nemo_elastic.core.cost import MemorySpec, active_parameters, counts, has_inactive, memory, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import striped_axes
from nemo_elastic.core.latency import PHASES, REQUEST, LatencyTable
from nemo_elastic.core.limits import LatencyLimit
from nemo_elastic.core.member import limits_used
from nemo_elastic.errors import printable
from nemo_elastic.formats.checkpoint import Shapes
from nemo_elastic.formats.hf.config import prediction_of
from nemo_elastic.slicing.card import axis_title, human_bytes, width


def print_table(title: str, rows: Sequence[Mapping[str, str]], left: int = 1, **style: Any) -> None:
    """Print cells of text, with a column for each name that a row has; the first `left` are words, not numbers."""
    table = Table(title=printable(title), title_justify="left", **style)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for number, name in enumerate(names):
        table.add_column(printable(name), justify="left" if number < left else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(printable(row.get(name, "-")) for name in names))
    console_on(sys.stdout).print(table)


@contextmanager
def counting(what: str, quiet: bool, *columns: Any) -> Iterator[Callable[..., None]]:
    """Show a bar on a terminal while it lasts, with time passed and time left; elsewhere name what is being done.

    Gives the function to call with (done, in all) and, where that changes, what is done.
    """
    words, console = TextColumn("{task.description}", markup=False), Console(stderr=True)
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    shown, named, began = not quiet and console.is_terminal, what, None
    # gone when it ends, so that an error stays one line
    with Progress(words, BarColumn(), *columns, *times, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int, now: str = what) -> None:
            nonlocal named, began
            bar.update(task, completed=done, total=total, description=now)
            if now != named:
                named, began = now, done
            elif began is not None and done > began:  # not at once: what fails there is one line
                began = None
                if not (shown or quiet):
                    typer.echo(now, err=True)

        yield tell


@contextmanager
def advancing(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """The same bar for steps that are reported as they are done; gives the function to call with how many."""
    done = 0
    with counting(what, quiet) as tell:

        def more(number: int) -> None:
            nonlocal done
            done += number
            tell(done, total)

        yield more


def writing(what: str, quiet: bool) -> AbstractContextManager[Callable[[int, int], None]]:
    """Show a bar on a terminal while it lasts, with rate; gives the function to call with (bytes written, in all)."""
    return counting(what, quiet, DownloadColumn(), TransferSpeedColumn())


def size(
    parent: Parent,
    subnet: Subnet,
    spec: MemorySpec,
    table: LatencyTable | None = None,
) -> dict[str, Any]:
    """Exact parameters, bytes in service and what they are counted for, milliseconds by a table."""
    held = asdict(spec) | {"bytes": int(memory(parent, subnet, spec))}
    out = {**counts(parent, subnet), "memory": held}
    if table is not None:
        out["latency"] = {phase: 1e3 * seconds for phase, seconds in table.seconds(parent, subnet).items()}
    return out


def size_line(parent: Parent, subnet: Subnet, spec: MemorySpec) -> str:
    """The same in words."""
    entry = size(parent, subnet, spec)
    place = f"{spec.weights}, {spec.batch} x {spec.length} tokens"
    held = f"{human_bytes(entry['memory']['bytes'])} in service ({place})"
    active = f" ({entry['active_parameters']:,} active)" if "active_parameters" in entry else ""
    return f"{entry['parameters']:,} parameters{active}, {held}"


def stripes_line(parent: Parent) -> str:
    """What members keep of axes that lie in stripes: a published family has one stripe of each."""
    kinds = {axis for kind in parent.kinds for axis in kind.widths}
    stripes = (f"{axis} {parent.size(size)}" for axis, size in striped_axes().items() if axis in kinds)
    return f"stripes {', '.join(stripes) or 'none'}: a member keeps the front of each stripe"


def stream_line(hidden: str, parent: Parent) -> str:
    """How the residual stream was ranked (`RankOptions.hidden`)."""
    return f"residual stream by {hidden}" + (" (its head is tied to the embedding)" if parent.tied else "")


def describe(shapes: Shapes, spec: MemorySpec, table: LatencyTable | None = None) -> dict[str, Any]:
    """Give what `inspect --json` prints."""
    family = shapes.family
    behind = prediction_of(shapes.config)
    budgets = {} if family is None else {m.name: m.budget for m in (*family, *family.extras)}

    def entries(shapes_of: Mapping[str, Subnet]) -> dict[str, Any]:
        return {
            name: size(shapes.parent, subnet, spec, table)
            | {"budget": budgets.get(name), "subnet": subnet.to_json()}
            | ({} if behind is None else {"prediction_parameters": behind.parameters(shapes.parent, subnet)})
            for name, subnet in shapes_of.items()
        }

    return {
        "source": str(shapes.folder),
        "parent": shapes.parent.to_json(),
        "members": entries(shapes.members),
        "extras": entries(shapes.extras),
        "ranking": shapes.origin.ranking,
        "provenance": dict(shapes.origin.provenance),
    }


def print_members(
    shapes: Shapes, members: Mapping[str, Subnet], spec: MemorySpec, title: str, latencies: LatencyTable | None = None
) -> None:
    """Print a column per member: parameters, memory, times, widths; how much of several limits it uses."""
    parent, family = shapes.parent, shapes.family
    limits = {} if family is None else limits_used(parent, (*family, *family.extras))
    whole = parameters(parent, parent.full)
    rows: list[dict[str, str]] = []

    def row(name: str, cell: Callable[[str, Subnet], str]) -> None:
        rows.append({"": name} | {member: cell(member, subnet) for member, subnet in members.items()})

    row("parameters", lambda _, subnet: f"{parameters(parent, subnet):,}")
    row("of the parent", lambda _, subnet: f"{parameters(parent, subnet) / whole:.1%}")
    if has_inactive(parent):
        row("active", lambda _, subnet: f"{active_parameters(parent, subnet):,}")
    if limits:
        row("of its limits", lambda name, _: limits.get(name, "-"))
    row(
        f"memory ({spec.weights}, {spec.batch} x {spec.length})",
        lambda _, subnet: human_bytes(memory(parent, subnet, spec)),
    )
    if latencies is not None:
        each = {name: latencies.seconds(parent, subnet) for name, subnet in members.items()}
        for phase in (*PHASES, REQUEST):
            row(phase, lambda name, _, phase=phase: LatencyLimit.words(1e3 * each[name][phase]))
    for axis in parent.axes:
        row(axis_title(axis), lambda _, subnet, axis=axis: width(subnet, axis))
    print_table(title, rows)
