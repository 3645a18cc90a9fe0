# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic calibrate`: find out when a family's smallest member is not enough."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nemo_elastic.cli import options
from nemo_elastic.cli.options import as_json, print_json
from nemo_elastic.cli.show import advancing
from nemo_elastic.data.eval_data import EvalData, read_eval_data
from nemo_elastic.errors import ElasticError, printable
from nemo_elastic.formats.checksums import family_digest
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.source import Source
from nemo_elastic.io.outputs import check_file

if TYPE_CHECKING:
    from nemo_elastic.evaluation.known_answers import Against, Measured

__all__ = ["command"]


def command(
    family: Annotated[Path, typer.Argument(help="A family folder.")],
    data: Annotated[Path, typer.Option(help=options.DATA)],
    device: Annotated[str, options.device()] = "cpu",
    force: Annotated[bool, options.force("an older auto.json")] = False,
    json: Annotated[bool, as_json("the figures")] = False,
) -> None:
    """Measure on held-out prompts when a larger member pays, for the model `auto` of `nemo-elastic serve`.

    Every member reads up to 512 prompts and their known answers. Half of the prompts are problems, if the data has
    problems. The command fits the gain of a larger member on the answer to the entropy, margin and surprise of the
    smallest member on the prompt. It writes the fit to auto.json in the family folder and changes no weights.

    The table checks the fit: one half of the prompts decides for the other half, against the best random mixture of
    members at the same cost. If no gain is above 0 by more than its interval, `auto` is no better than chance, and the
    command warns.

    Example: `nemo-elastic calibrate family/ --data data`, then `nemo-elastic serve family/ --auto 0.3`.
    """
    from nemo_elastic.evaluation.known_answers import held_out
    from nemo_elastic.runtime.storage import check_device
    from nemo_elastic.serving.calibration import FILE, write_calibration

    # What can be refused is refused before anything is computed.
    source = open_source(family)
    digest = family_digest(source.folder)
    check_file(source.folder / FILE, force)
    if source.family is None or len(source.family.members) < 2:
        raise ElasticError("calibrate: needs a family of at least two members", family)
    given = read_eval_data(data, source)
    check_device(device, "--device")
    for line in () if json else given.notes:
        typer.echo(line, err=True)
    measured = _measured(source, given, device, quiet=json)
    tried = held_out(measured)
    path = write_calibration(source.folder, measured.calibrate(), force, digest)
    if json:
        print_json(_record(path, measured, tried))
        return
    for table in _tables(measured, tried):
        Console(markup=False).print(table)
    if not any(row.gain > row.wide for row in tried):
        typer.echo(
            "warning: no gain is above 0 by more than its interval, so `auto` is no better than chance", err=True
        )
    typer.echo(f"written: {path}", err=True)


def _measured(source: Source, text: EvalData, device: str, quiet: bool) -> Measured:
    """What every member makes of held-out prompts."""
    from nemo_elastic.evaluation.known_answers import examples, measure
    from nemo_elastic.runtime import load_family

    given = examples(text)
    runtime = load_family(source, device=device)
    with advancing(str(source.folder), len(given) * len(runtime.path), quiet) as done:
        return measure(runtime, given, done=done)


def _fixed(measured: Measured) -> list[dict[str, Any]]:
    """Every member alone, from the smallest."""
    from nemo_elastic.serving.calibration import shares

    rows = zip(
        measured.members, measured.parameters, shares(measured.parameters), measured.quality_nm.mean(0), strict=True
    )
    return [
        {"member": name, "parameters": count, "cost": float(cost), "nats": -float(quality)}
        for name, count, cost, quality in rows
    ]


def _record(path: Path, measured: Measured, tried: list[Against]) -> dict[str, Any]:
    from nemo_elastic.evaluation.known_answers import TRIED

    rows = [
        {"dial": asked, "cost": row["cost"], "nats": -row["quality"], "random_nats": -row["random"]}
        | {"gain": row["gain"], "interval": [row["gain"] - row["wide"], row["gain"] + row["wide"]]}
        for asked, row in zip(TRIED, map(asdict, tried), strict=True)
    ]
    return {"out": str(path), "samples": len(measured.signals_ns), "members": _fixed(measured), "auto": rows}


def _tables(measured: Measured, tried: list[Against]) -> list[Any]:
    from nemo_elastic.evaluation.known_answers import TRIED

    fixed = Table("member", "parameters", "cost", "nats per token")
    for row in _fixed(measured):
        fixed.add_row(printable(row["member"]), f"{row['parameters']:,}", f"{row['cost']:.2f}", f"{row['nats']:.4f}")
    auto = Table("--auto", "cost", "nats per token", "random mixing", "gain")
    for asked, row in zip(TRIED, tried, strict=True):
        gain = f"{row.gain:+.4f} ± {row.wide:.4f}"
        auto.add_row(f"{asked:g}", f"{row.cost:.2f}", f"{-row.quality:.4f}", f"{-row.random:.4f}", gain)
    return [fixed, auto]
