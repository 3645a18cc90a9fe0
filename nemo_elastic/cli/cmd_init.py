# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic init`: a family without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nemo_elastic.cli import options
from nemo_elastic.cli.options import CONFIG, as_json, print_json
from nemo_elastic.cli.show import describe, members_table, stripes_line, writing
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.io.outputs import check_output
from nemo_elastic.slicing.card import served_as
from nemo_elastic.slicing.untrained import UNTRAINED, init_family, write_example

__all__ = ["command"]


def command(
    out: Annotated[Path, options.out("The family folder to write.")],
    parent: Annotated[
        Path | None, typer.Argument(help="A plain Nemotron-H in the format of Hugging Face or NeMo.")
    ] = None,
    config: Annotated[Path | None, CONFIG] = None,
    example: Annotated[
        bool,
        typer.Option(
            "--example",
            help="Use a tiny parent with random weights, to try commands on, instead of PARENT and --config.",
        ),
    ] = False,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, as_json("the members")] = False,
) -> None:
    """Make a family from a parent without training. The members are even cuts that meet the block's budgets.

    If the block names a ranking, the command sorts the weights by the ranking. Otherwise the weights keep their stored
    order, and members keep the front of each width, as in published families, unless the block gives stripes. In
    unsorted weights the choice of a member's channels is arbitrary.

    Example: `nemo-elastic init parent/ --config elastic.yaml --out family/`, or
    `nemo-elastic init --example --out family/`
    """
    given = {"PARENT": parent, "--config": config}
    if example and any(given.values()):
        raise ElasticError("--example: is not allowed with PARENT or --config")
    if not example and None in given.values():
        missing = next(name for name, value in given.items() if value is None)
        raise ElasticError(f"{missing}: is missing; or give --example")
    check_output(out, force, parent, config, kind=UNTRAINED)
    with writing(f"writing {out}", quiet=json) as progress:
        if parent is None or config is None:
            write_example(out, force=force, progress=progress)
        else:
            block = ElasticConfig.load(config)
            init_family(parent, block, out, force=force, progress=progress)
    shapes = read_shapes(out)
    spec = served_as(shapes.config)
    if json:
        print_json(describe(shapes, spec))
        return
    Console(markup=False).print(members_table(shapes, shapes.members, spec, str(out)))
    typer.echo(f"{out}: {stripes_line(shapes.parent)}")
    if (left_out := shapes.origin.provenance.get("left_out")) is not None:
        typer.echo(f"{out}: without {left_out}")
