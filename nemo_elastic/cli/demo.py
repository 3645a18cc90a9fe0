# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic demo`: the whole method at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option("--out", help="The folder to fill.")],
    short: Annotated[bool, typer.Option("--short", help="Every part, too briefly to learn much.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier demo.")] = False,
) -> None:
    """Real text to a nested family, through NeMo, on this machine's CPU, with a report at the end.

    Example: `nemo-elastic demo --out runs/demo`
    """
    from nemo_elastic.extras import require

    require("nemo")  # it would be missed after the data is made
    from nemo_elastic.demo.run import Demo
    from nemo_elastic.demo.settings import FULL, SHORT

    Demo(out, SHORT if short else FULL, force).run()
