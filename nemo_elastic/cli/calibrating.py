# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic eval --calibrate`: when a larger member pays, for the model `auto`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import advancing, print_table
from nemo_elastic.data.eval_data import EvalData, read_eval_data
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.checksums import family_digest
from nemo_elastic.formats.folders import open_source
from nemo_elastic.io.outputs import check_file

if TYPE_CHECKING:
    from nemo_elastic.evaluation.known_answers import Comparison, Measured


def calibrate(family: Path, data: Path, device: str, force: bool, json: bool) -> None:
    """Measure every member on prompts with known answers, write auto.json, and print how `auto` would choose."""
    from nemo_elastic.evaluation.known_answers import held_out
    from nemo_elastic.runtime.storage import check_device
    from nemo_elastic.serving.calibration import FILE, write_calibration

    # What can be refused is refused before anything is computed.
    source = open_source(family)
    digest = family_digest(source.folder)
    check_file(source.folder / FILE, force)
    if source.family is None or len(source.family.members) < 2:
        raise ElasticError("--calibrate: needs a family of at least two members", family)
    given = read_eval_data(data, source)
    check_device(device, "--device")
    for line in () if json else given.notes:
        typer.echo(line, err=True)
    measured = _measured(source, given, device, quiet=json)
    tried = held_out(measured)
    path = write_calibration(source.folder, measured.calibrate(), force, digest)
    record = {"samples": len(measured.signals_ns), "members": _members(measured), "auto": _auto(tried)}
    if json:
        options.print_json({"out": str(path)} | record)
        return
    for title in ("members", "auto"):
        print_table(title, [_cells(row) for row in record[title]])
    if not any(row.gain > row.half_width for row in tried):
        typer.echo(
            "warning: no gain is above 0 by more than its interval, so `auto` is no better than chance", err=True
        )
    typer.echo(f"written: {path}", err=True)


def _measured(source: Checkpoint, text: EvalData, device: str, quiet: bool) -> Measured:
    """What every member makes of held-out prompts."""
    from nemo_elastic.evaluation.known_answers import examples, measure
    from nemo_elastic.runtime import load_family

    given = examples(text)
    runtime = load_family(source, device=device)
    with advancing(str(source.folder), len(given) * len(runtime.path), quiet) as done:
        return measure(runtime, given, done=done)


def _members(measured: Measured) -> list[dict[str, Any]]:
    """Every member alone, from the smallest."""
    from nemo_elastic.serving.calibration import shares

    rows = zip(
        measured.members, measured.parameters, shares(measured.parameters), measured.quality_nm.mean(0), strict=True
    )
    return [
        {"member": name, "parameters": count, "cost": float(cost), "nats": -float(quality)}
        for name, count, cost, quality in rows
    ]


def _auto(tried: list[Comparison]) -> list[dict[str, Any]]:
    """Each cost setting on the half that did not decide, against random mixtures of members."""
    from nemo_elastic.evaluation.known_answers import COST_SETTINGS

    return [
        {"dial": dial, "cost": row.cost, "nats": -row.quality, "random_nats": -row.random}
        | {"gain": row.gain, "interval": [row.gain - row.half_width, row.gain + row.half_width]}
        for dial, row in zip(COST_SETTINGS, tried, strict=True)
    ]


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Figures as text."""
    low, high = row.get("interval", (0, 0))
    own = {"parameters": ",", "dial": "g", "cost": ".2f", "member": ""}
    cells = {name: format(value, own.get(name, ".4f")) for name, value in row.items() if name != "interval"}
    return cells | ({"gain": f"{row['gain']:+.4f} ± {(high - low) / 2:.4f}"} if "gain" in row else {})
