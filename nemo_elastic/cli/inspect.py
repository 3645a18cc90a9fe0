# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic inspect`: what is in a folder."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    source: Annotated[Path, typer.Argument(help="A family folder, a member, or any plain Nemotron-H folder.")],
    batch: Annotated[int, typer.Option(help="Sequences served at once, for the memory.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens that each of them may have, for the memory.")] = 8192,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the members: exact parameters, memory in service, widths per layer. Weights are not read.

    Example: `nemo-elastic inspect family/`, or for programs `nemo-elastic inspect family/ --json`.
    """
    from rich.console import Console

    from nemo_elastic.cli.show import describe, members_table, serving, widths_table
    from nemo_elastic.export.hf import read_shapes

    shapes = read_shapes(source)
    spec = serving(shapes, batch, length)
    if json:
        typer.echo(json_module.dumps(describe(shapes, spec), indent=2))
        return
    console = Console()
    console.print(members_table(shapes.parent, shapes.members, spec, str(source)))
    console.print(widths_table(shapes.parent, shapes.members))
    typer.echo(f"ranking: {shapes.origin.ranking or 'none'}")
