# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic doctor`: is this machine fit, and for what."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_elastic.cli.options import as_json, print_json

if TYPE_CHECKING:
    from nemo_elastic.doctor import Facts, Finding
    from nemo_elastic.gpu_checks.run_checks import Result

__all__ = ["command"]


def command(
    training: Annotated[
        bool,
        typer.Option("--training", help="Training is to work here: exit code 1 also where NeMo is not installed."),
    ] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Run on the GPU what only a GPU can show; up to three minutes.")
    ] = False,
    json: Annotated[bool, as_json()] = False,
) -> None:
    """Print releases, GPUs and kernels, what will be used here, and what is wrong, with a fix for each.

    Exit code 1 if what is installed cannot train, or a check of --kernels fails. Without NeMo all is well, for slicing
    needs none; with --training it is not. Without a GPU --kernels says what it would run.

    Example: `nemo-elastic doctor`, or before a training `nemo-elastic doctor --training`
    """
    from nemo_elastic.doctor import ERROR, collect, diagnose, paths

    facts = collect()
    findings = diagnose(facts, training)
    if not json:
        _print(facts, findings)
    results = _checked(facts, quiet=json) if kernels else []
    wrong = any(f.level == ERROR for f in findings) or any(result.ok is False for result in results)
    if json:
        record = {
            "facts": asdict(facts),
            "uses": paths(facts),
            "findings": [asdict(f) for f in findings],
            "ok": not wrong,
        }
        if kernels:
            record["kernels"] = [result.to_json() for result in results]
        print_json(record)
    if wrong:
        raise typer.Exit(1)


def _checked(facts: Facts, quiet: bool) -> list[Result]:
    """Run the checks, or say what they are; each is a line of a table as soon as it is done."""
    from nemo_elastic.gpu_checks.run_checks import CHECKS, Result, perform_all

    width = max(len(check.name) for check in CHECKS)

    def say(result: Result) -> None:
        if not quiet:
            word = {True: "ok", False: "WRONG", None: "-"}[result.ok]
            time = "" if result.ok is None else f"{result.seconds:.0f} s"
            typer.echo(f"  {result.name:{width}}  {word:5}  {time:5}  {result.message}")

    if not quiet:
        typer.echo("checks on this GPU:" if facts.gpus else "checks that a GPU runs; none is here:")
    if facts.gpus:
        return perform_all(facts, say=say)
    results = [Result(check.name, None, f"would run: {check.would}") for check in CHECKS]
    for result in results:
        say(result)
    return results


def _print(facts: Facts, findings: list[Finding]) -> None:
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
    for finding in findings:
        typer.echo(f"{finding.level}: {finding.about}: {finding.problem}")
        typer.echo(f"  fix: {finding.fix}")
    if not findings:
        typer.echo("nothing is wrong")
