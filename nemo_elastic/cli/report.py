# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic report`: one HTML page with pictures from a run's folder."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    run: Annotated[Path, typer.Argument(help="The folder that a run wrote, e.g. the demo's.")],
    out: Annotated[Path | None, typer.Option("--out", help="The folder to write.", show_default="RUN/report")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a link to an earlier report, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print files, members and notes as JSON.")] = False,
) -> None:
    """Turn a run into one HTML page with plots, and the plots as PNG files beside it.

    Parts that the run has not are left out; an earlier report in the same place is replaced.

    Example: `nemo-elastic report runs/demo`
    """
    from nemo_elastic.report import build_report, load_run
    from nemo_elastic.report.tables import members

    page = build_report(run, out, force)
    loaded = load_run(run)
    pictures = sorted(str(p) for p in page.parent.glob("*.png"))
    if json:
        told = {"page": str(page), "pictures": pictures, "members": members(loaded), "notes": loaded.notes}
        typer.echo(json_module.dumps(told, indent=2))
        return
    for note in loaded.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{page}: {len(pictures)} pictures, {page.stat().st_size / 1e6:.1f} MB")
