# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic inspect`: what is in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import describe, print_members, print_table
from nemo_elastic.config.starter import starter_block
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.latency import LatencyTable
from nemo_elastic.errors import printable
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.hf.config import prediction_of
from nemo_elastic.formats.hf.quant_config import quantization_of
from nemo_elastic.slicing.card import served_as

_TABLE = "Add the milliseconds of each member, by a table of `nemo-elastic profile`."


def command(
    source: Annotated[Path, typer.Argument(help="A family folder, a member, or any plain Nemotron-H folder.")],
    batch: Annotated[int, options.BATCH_SERVED] = 1,
    context: Annotated[int, options.CONTEXT_SERVED] = 8192,
    latency: Annotated[Path | None, typer.Option("--latency", help=_TABLE)] = None,
    json: Annotated[bool, options.as_json("the members")] = False,
) -> None:
    """List the members: exact parameters, memory in service, widths per layer. The command reads no weights.

    For a parent that is no family yet the command also prints an `elastic:` block to start with.

    Example: `nemo-elastic inspect family/`, or for programs `nemo-elastic inspect family/ --json`.
    """
    shapes = read_shapes(source)
    quantization = quantization_of(shapes.config, shapes.folder)
    spec = served_as(shapes.config, batch, context, quantization)
    table = None if latency is None else LatencyTable.read("--latency", str(latency))
    if json:
        options.print_json(describe(shapes, spec, table))
        return
    named = shapes.members | shapes.extras
    print_members(shapes, named, spec, str(source), table)
    print_table("widths per layer", list(_widths(shapes.parent, named)))
    if (behind := prediction_of(shapes.config)) is not None:
        counts = ", ".join(f"{printable(n)} {behind.parameters(shapes.parent, m):,}" for n, m in named.items())
        typer.echo(f"layers {behind.pattern} that predict more than one token, not counted above: {counts}")
    for name in shapes.extras:
        typer.echo(f"{printable(name)} is an extra shape: found after training, not trained itself, on no path")
    typer.echo(f"ranking: {shapes.origin.ranking or 'none'}")
    if shapes.family is None and shapes.origin.name is None:
        typer.echo("\nA block to start with, for `init --config` and `train`:\n")
        typer.echo(starter_block(shapes.parent), nl=False)


def _widths(parent: Parent, members: Mapping[str, Subnet]) -> Iterator[dict[str, str]]:
    """What each member keeps of each layer of the parent."""
    for i, kind in enumerate(parent.types):
        kept = {name: subnet.by_index.get(i) for name, subnet in members.items()}
        yield {"layer": f"{i} {kind}"} | {
            name: "·" if layer is None else " x ".join(map(str, layer.widths.values())) for name, layer in kept.items()
        }
