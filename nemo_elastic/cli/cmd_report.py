# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic report`: one HTML page with pictures from a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.extras import require


def command(
    run: Annotated[Path, typer.Argument(help="Folder that a run wrote, e.g. the demo's.")],
    json: Annotated[bool, options.as_json("the files, members and notes")] = False,
) -> None:
    """Turn a run into one HTML page with plots, RUN/report/report.html, and write each plot as a PNG file beside it.

    The page shows the parts that the run has so far. It replaces an earlier report there.

    Example: `nemo-elastic report runs/demo`
    """
    require("matplotlib")  # its extra brings jinja2 too, which is imported first
    from nemo_elastic.report import build_report, load_run
    from nemo_elastic.report.page import members

    page = build_report(run)
    loaded = load_run(run)
    pictures = sorted(str(p) for p in page.parent.glob("*.png"))
    if json:
        record = {"page": str(page), "pictures": pictures, "members": members(loaded), "notes": loaded.notes}
        options.print_json(record)
        return
    for note in loaded.notes:
        typer.echo(f"note: left out: {note}", err=True)
    typer.echo(f"{page}: {len(pictures)} pictures, {page.stat().st_size / 1e6:.1f} MB")
