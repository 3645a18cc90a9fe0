# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What several commands print: tables of members, a bar while bytes are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo_elastic.cost import MemorySpec
    from nemo_elastic.export.hf import Shapes
    from nemo_elastic.family import Parent, Subnet

__all__ = ["describe", "members_table", "parse_count", "serving", "widths_table", "writing"]

_COUNTS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def parse_count(option: str, text: str) -> float:
    """Read a number of parameters: 6e9, 6B, 850M.

    Raises:
        ElasticError: It is none, or not above zero.
    """
    from nemo_elastic.errors import bad

    unit = _COUNTS.get(text[-1:].upper(), 1.0)
    try:
        count = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        count = 0.0
    if not 0 < count < 1e18:
        raise bad(option, text, "a number of parameters such as 6e9, 6B or 850M")
    return count


@contextmanager
def writing(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal while it lasts; gives the function to call with (bytes written, bytes in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    # gone when it ends, so that an error stays one line
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def serving(shapes: Shapes, batch: int = 1, length: int = 8192) -> MemorySpec:
    """The memory spec of serving a folder's weights in the dtype that its config names."""
    from nemo_elastic.export.card import serving_spec

    told = str(shapes.config.get("torch_dtype", shapes.config.get("dtype")))
    return serving_spec({"float32": "F32", "float16": "F16"}.get(told, "BF16"), batch=batch, length=length)


def describe(shapes: Shapes, spec: MemorySpec) -> dict[str, Any]:
    """Give what `inspect --json` prints."""
    from nemo_elastic.cost import memory, parameters

    budgets = {m.name: m.budget for m in shapes.family} if shapes.family is not None else {}
    return {
        "source": str(shapes.folder),
        "parent": shapes.parent.to_json(),
        "members": {
            name: {
                "parameters": parameters(shapes.parent, subnet),
                "memory": asdict(spec) | {"bytes": int(memory(shapes.parent, subnet, spec))},
                "budget": budgets.get(name),
                "subnet": subnet.to_json(),
            }
            for name, subnet in shapes.members.items()
        },
        "ranking": shapes.origin.ranking,
        "provenance": dict(shapes.origin.provenance),
    }


def members_table(parent: Parent, members: Mapping[str, Subnet], spec: MemorySpec, title: str) -> Any:
    """Give a table with a column per member: parameters, memory, widths."""
    from nemo_elastic.cost import memory, parameters
    from nemo_elastic.export.card import TITLES, human_bytes, width

    table = _table(title, "", members)
    whole = parameters(parent, parent.full)
    counts = {n: parameters(parent, s) for n, s in members.items()}
    table.add_row("parameters", *(f"{c:,}" for c in counts.values()))
    table.add_row("of the parent", *(f"{c / whole:.1%}" for c in counts.values()))
    told = f"memory ({spec.weights}, {spec.batch} x {spec.length})"
    table.add_row(told, *(human_bytes(memory(parent, s, spec)) for s in members.values()))
    for axis, name in TITLES.items():
        table.add_row(name, *(width(s, axis) for s in members.values()))
    return table


def widths_table(parent: Parent, members: Mapping[str, Subnet]) -> Any:
    """Give a table with a row per layer of the parent: what each member keeps of it."""
    table = _table("widths per layer", "layer", members)
    for i, kind in enumerate(parent.types):
        cells = []
        for subnet in members.values():
            layer = subnet.by_index.get(i)
            if layer is None:
                cells.append("·")
            elif layer.head_dim is not None:
                cells.append(f"{layer.heads} x {layer.head_dim}")
            else:
                cells.append(str(layer.ffn if layer.ffn is not None else layer.heads))
        table.add_row(f"{i} {kind}", *cells)
    return table


def _table(title: str, first: str, members: Mapping[str, Subnet]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in members:
        table.add_column(name, justify="right", no_wrap=True)
    return table
