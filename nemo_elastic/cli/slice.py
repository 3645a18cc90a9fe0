# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic slice`: cut one member out, without training and without torch."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nemo_elastic.export.hf import Source

__all__ = ["command"]


def command(
    source: Annotated[Path, typer.Argument(help="A family folder, a larger member, or any plain Nemotron-H folder.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    budget: Annotated[str | None, typer.Option("--budget", help="Name of the member.")] = None,
    params: Annotated[
        str | None, typer.Option("--params", help="Largest member of at most so many parameters: 6e9, 6B.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Largest member that is served in so much memory: 14GiB.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences served at once, for --memory.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens that each of them may have, for --memory.")] = 8192,
    subnet: Annotated[
        Path | None, typer.Option("--subnet", help="JSON file with a shape of your own inside the source.")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="hf: for transformers and vLLM; nemo: a NeMo checkpoint.")
    ] = "hf",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was cut as JSON.")] = False,
) -> None:
    """Cut one member out of a family: its weights are copied, nothing is trained.

    Examples: `nemo-elastic slice family/ --budget 6b --out 6b/`, or what fits a card:
    `nemo-elastic slice family/ --memory 14GiB --length 32768 --out small/`.
    """
    from nemo_elastic.cli.show import writing
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.export.hf import open_source
    from nemo_elastic.export.slicer import slice_checkpoint
    from nemo_elastic.family import Subnet
    from nemo_elastic.files import read_json

    ways = {"--budget": budget, "--params": params, "--memory": memory, "--subnet": subnet}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ElasticError(f"slice: give exactly one of {', '.join(ways)}" + (f", not {given}" if given else ""))
    opened = open_source(source)
    shape, note = None, None
    if subnet is not None:
        shape = Subnet.from_json(read_json(subnet), opened.parent, str(subnet))
    elif budget is None:
        budget, note = _largest(opened, params, memory, batch, length)
    with writing(f"writing {out}", quiet=json) as progress:
        cut = slice_checkpoint(opened, out, member=budget, subnet=shape, format=format, force=force, progress=progress)
    if json:
        told = {
            "out": str(cut.out),
            "member": cut.member,
            "parameters": cut.parameters,
            "subnet": cut.subnet.to_json(),
        }
        typer.echo(json_module.dumps(told, indent=2))
        return
    if note is not None:
        typer.echo(note)
    typer.echo(f"{out}: {cut.member or 'a shape of your own'}, {cut.parameters:,} parameters")


def _largest(source: Source, params: str | None, memory: str | None, batch: int, length: int) -> tuple[str, str]:
    """Name of the largest member within a limit, and a line that says how far below it is."""
    from nemo_elastic import cost
    from nemo_elastic.checks import parse_size
    from nemo_elastic.cli.show import parse_count
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.export.card import human_bytes, serving_spec

    if source.family is None:
        raise ElasticError(f"{source.folder}: is one model, not a family; give a shape with --subnet")
    if params is not None:
        option, limit = "--params", parse_count("--params", params)
        price = lambda subnet: cost.parameters(source.parent, subnet)  # noqa: E731
        told = lambda value: f"{value:,.0f} parameters"  # noqa: E731
    else:
        option, limit = "--memory", parse_size("--memory", memory)
        spec = serving_spec(source.dtype, batch=batch, length=length)
        price = lambda subnet: cost.memory(source.parent, subnet, spec)  # noqa: E731
        told = human_bytes
    found = source.family.largest(limit, price)
    if found is None:
        least = source.family.members[-1]
        raise ElasticError(f"{option}: {told(limit)} is too little; {least.name} takes {told(price(least.subnet))}")
    used = price(found.subnet)
    below = f"{1 - used / limit:.1%} below {told(limit)}"
    return found.name, f"largest member that fits: {found.name} takes {told(used)}, {below}"
