# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic doctor`: is this machine fit, and for what."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nemo_elastic.doctor import Facts, Finding

__all__ = ["command"]


def command(json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Print releases, GPUs and kernels, what will be used here, and what is wrong, with a fix for each.

    Exit code 1 if something keeps training from working. Without NeMo that is no error: slicing needs none.

    Example: `nemo-elastic doctor`
    """
    from nemo_elastic.doctor import ERROR, collect, diagnose, paths

    facts = collect()
    found = diagnose(facts)
    wrong = any(f.level == ERROR for f in found)
    if json:
        told = {"facts": asdict(facts), "uses": paths(facts), "findings": [asdict(f) for f in found], "ok": not wrong}
        typer.echo(json_module.dumps(told, indent=2))
    else:
        _print(facts, found)
    if wrong:
        raise typer.Exit(1)


def _print(facts: Facts, found: list[Finding]) -> None:
    from nemo_elastic.doctor import paths

    rows = {"python": ".".join(map(str, facts.python)), "system": facts.system}
    rows |= {name: version or "-" for name, version in facts.versions.items()}
    rows["CUDA of torch"] = facts.cuda or "-"
    names = [f"{g.name}, {g.memory / 2**30:.0f} GiB, sm_{g.capability[0]}{g.capability[1]}" for g in facts.gpus]
    rows["GPUs"] = "; ".join(names) or "none"
    for title, table in (("installed", rows), ("used here", paths(facts))):
        typer.echo(f"{title}:")
        width = max(map(len, table))
        for name, value in table.items():
            typer.echo(f"  {name:{width}}  {value}")
    for finding in found:
        typer.echo(f"{finding.level}: {finding.about}: {finding.problem}")
        typer.echo(f"  fix: {finding.fix}")
    if not found:
        typer.echo("nothing is wrong")
