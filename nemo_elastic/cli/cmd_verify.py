# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic verify`: check a folder, with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nemo_elastic.cli.options import as_json, print_json
from nemo_elastic.errors import printable
from nemo_elastic.slicing.verification import verify

__all__ = ["command"]


def command(
    source: Annotated[Path, typer.Argument(help="A family folder, a member, or any plain Nemotron-H folder.")],
    parent: Annotated[
        Path | None,
        typer.Option(
            "--parent",
            help="Of a family: the model that it was made from, must compute the same. "
            "Of a member, also one that others cut: the family, of which it must be the cut.",
        ),
    ] = None,
    forward: Annotated[
        bool | None,
        typer.Option(
            "--forward/--no-forward",
            help="Run the model: cut members must compute what masks compute.",
            show_default="runs it where torch is installed and the model is small",
        ),
    ] = None,
    json: Annotated[bool, as_json("the checks")] = False,
) -> None:
    """Check that a family is what it says it is. Exit code 1 if a check fails, 2 if the folder cannot be read at all.

    Example: `nemo-elastic verify family/ --parent parent/`
    """
    report = verify(source, parent=parent, forward=forward)
    if json:
        print_json(report.to_json())
    else:
        table = Table(title=printable(str(source)), title_justify="left")
        for header in ("check", "", "figure"):
            table.add_column(header)
        for check in report.checks:
            word = {True: "ok", False: "FAILED", None: "-"}[check.ok]
            table.add_row(printable(check.name), word, printable(check.figure))
        Console(markup=False).print(table)
    if not report.ok:
        raise typer.Exit(1)
