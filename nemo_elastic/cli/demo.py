# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic demo`: the whole method at tiny size."""

from __future__ import annotations

import json as json_module
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option("--out", help="The folder to fill.")],
    short: Annotated[bool, typer.Option("--short", help="Every part, too briefly to learn much.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier demo.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print members, targets and seconds as JSON; progress goes to stderr.")
    ] = False,
) -> None:
    """Real text to a nested family, through NeMo, on this machine's CPU, with a report at the end.

    The folder is filled while it runs, to be looked at. What a demo leaves that did not reach its end stays there, and
    is replaced by --force.

    Example: `nemo-elastic demo --out runs/demo`
    """
    from nemo_elastic.extras import require

    require("nemo")  # it would be missed after the data is made
    from nemo_elastic.demo.run import Demo
    from nemo_elastic.demo.settings import FULL, SHORT

    with redirect_stdout(sys.stderr) if json else nullcontext():
        demo = Demo(out, SHORT if short else FULL, force)
        metrics = demo.run()
    if json:
        typer.echo(json_module.dumps({"out": str(demo.out)} | metrics, indent=2))
