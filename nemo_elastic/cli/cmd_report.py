# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic report`: one HTML page with pictures from a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import as_json, print_json

__all__ = ["command"]

_TABLE = "Draw members over milliseconds by this table of `nemo-elastic profile`, not by that of their budgets."


def command(
    run: Annotated[Path, typer.Argument(help="The folder that a run wrote, e.g. the demo's.")],
    out: Annotated[Path | None, options.out(show_default="RUN/report")] = None,
    force: Annotated[bool, options.force("a link to an earlier report, too")] = False,
    latency: Annotated[Path | None, typer.Option("--latency", help=_TABLE)] = None,
    json: Annotated[bool, as_json("files, members and notes")] = False,
) -> None:
    """Turn a run into one HTML page with plots, and the plots as PNG files beside it.

    Parts that the run has not are left out; an earlier report in the same place is replaced.

    Example: `nemo-elastic report runs/demo`
    """
    from nemo_elastic.core.latency import LatencyTable
    from nemo_elastic.extras import require
    from nemo_elastic.io.outputs import check_apart

    require("matplotlib")  # its extra brings jinja2 too, which is imported first
    from nemo_elastic.report import build_report, load_run
    from nemo_elastic.report.html_page import DEFAULT
    from nemo_elastic.report.page_tables import members

    table = None
    if latency is not None:
        check_apart(run / DEFAULT if out is None else out, latency)
        table = LatencyTable.read("--latency", str(latency))
    page = build_report(run, out, force, table)
    loaded = load_run(run)
    pictures = sorted(str(p) for p in page.parent.glob("*.png"))
    if json:
        record = {"page": str(page), "pictures": pictures, "members": members(loaded), "notes": loaded.notes}
        print_json(record)
        return
    for note in loaded.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{page}: {len(pictures)} pictures, {page.stat().st_size / 1e6:.1f} MB")
