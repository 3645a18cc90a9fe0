# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic demo`: the whole method at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.log_capture import LogCapture
from nemo_elastic.demo.demo_settings import FULL, SHORT
from nemo_elastic.demo.walk import Demo
from nemo_elastic.extras import require


def command(
    out: Annotated[Path, options.out("The folder to fill.")],
    short: Annotated[bool, typer.Option("--short", help="Run every part, too briefly to learn much.")] = False,
    force: Annotated[bool, options.force("the folder of an earlier demo")] = False,
    json: Annotated[bool, options.as_json("members and targets")] = False,
) -> None:
    """Make a nested family from real text, through NeMo, on this machine's CPU, with a report at the end.

    The demo fills the folder while it runs. A demo that stops early leaves its files, which --force replaces. The file
    demo.log in the folder has the output of NeMo and of the steps.

    Example: `nemo-elastic demo --out runs/demo`
    """
    require("nemo")  # it would be missed after the data is made
    with LogCapture() as capture:
        demo = Demo(out, SHORT if short else FULL, capture, force, err=json)
        metrics = demo.run()
    if json:
        options.print_json({"out": str(demo.out)} | metrics)
