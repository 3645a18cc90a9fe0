# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic verify`: check a folder, with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import print_table
from nemo_elastic.slicing.verification import verify

_PARENT = typer.Option(
    "--parent",
    help="For a family: the model that it was made from, which must compute the same. For a member, also one that "
    "another tool cut: the family that it was cut from.",
)
_FORWARD = typer.Option(
    "--forward/--no-forward",
    help="Run the model: a cut member must compute the same as a masked one.",
    show_default="runs it where torch is installed and the model is small",
)


def command(
    source: Annotated[Path, typer.Argument(help="A family folder, a member, or any plain Nemotron-H folder.")],
    parent: Annotated[Path | None, _PARENT] = None,
    forward: Annotated[bool | None, _FORWARD] = None,
    json: Annotated[bool, options.as_json("the checks")] = False,
) -> None:
    """Check the files, shapes and weights of a family or a member, and print a figure for each check.

    Exit code 1 if a check fails, 2 if the folder cannot be read.

    Example: `nemo-elastic verify family/ --parent parent/`
    """
    report = verify(source, parent=parent, forward=forward)
    if json:
        options.print_json(report.to_json())
    else:
        words = {True: "ok", False: "FAILED", None: "-"}
        rows = [{"check": c.name, "": words[c.ok], "figure": c.figure} for c in report.checks]
        print_table(str(source), rows, left=3)
    if not report.ok:
        raise typer.Exit(1)
