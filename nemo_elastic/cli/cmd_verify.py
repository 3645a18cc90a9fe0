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
            help="For a family: the model that it was made from, which must compute the same. For a member, also one "
            "that another tool cut: the family that it was cut from.",
        ),
    ] = None,
    forward: Annotated[
        bool | None,
        typer.Option(
            "--forward/--no-forward",
            help="Run the model: a cut member must compute the same as a masked one.",
            show_default="runs it where torch is installed and the model is small",
        ),
    ] = None,
    json: Annotated[bool, as_json("the checks")] = False,
) -> None:
    """Check the files, shapes and weights of a family or a member, and print a figure for each check.

    Exit code 1 if a check fails, 2 if the folder cannot be read.

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
