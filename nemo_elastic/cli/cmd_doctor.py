# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic doctor`: is this machine fit, and for what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.config.block import json_schema
from nemo_elastic.doctor import ERROR, Facts, Finding, collect, diagnose, paths

_SCHEMA = typer.Option("--schema", help="Print the JSON schema of the `elastic:` block instead.")


def command(
    schema: Annotated[bool, _SCHEMA] = False, json: Annotated[bool, options.as_json("the findings")] = False
) -> None:
    """Print releases, GPUs and kernels, the software that is used on this machine, and a fix for each problem.

    Exit code 1 if the installed software of a training cannot train. Slicing needs no NeMo.

    An editor with a YAML language server uses the schema when the first line of a block's file is
    `# yaml-language-server: $schema=elastic.schema.json`.

    Example: `nemo-elastic doctor`, or `nemo-elastic doctor --schema > elastic.schema.json`
    """
    if schema:
        options.print_json(json_schema())
        return
    facts = collect()
    findings = diagnose(facts)
    if not json:
        _print(facts, findings)
    wrong = any(f.level == ERROR for f in findings)
    if json:
        options.print_json({
            "facts": asdict(facts),
            "uses": paths(facts),
            "findings": [asdict(f) for f in findings],
            "ok": not wrong,
        })  # fmt: skip
    if wrong:
        raise typer.Exit(1)


def _print(facts: Facts, findings: list[Finding]) -> None:
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
    for finding in findings:
        typer.echo(f"{finding.level}: {finding.about}: {finding.problem}")
        typer.echo(f"  fix: {finding.fix}")
    if not findings:
        typer.echo("nothing is wrong")
