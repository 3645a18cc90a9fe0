# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic init`: a family without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting, describe, print_members, stream_line, stripes_line, writing
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.kinds.mamba import SHARDS
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Shapes
from nemo_elastic.formats.folders import local_folder, open_source, read_shapes
from nemo_elastic.io.outputs import check_output
from nemo_elastic.slicing.card import served_as
from nemo_elastic.slicing.example import write_example
from nemo_elastic.slicing.untrained import SEARCHED, UNTRAINED, init_family, join_family

_DATA = typer.Option("--data", help=f"Rank PARENT, and search shapes, on this. {options.TRAINING}")
_MEMBER = typer.Option(
    "--member",
    help="NAME=CHILD: a member that others cut from PARENT, as a folder, its config.json or a file with its shape. "
    "Repeatable.",
)

_PARENT = typer.Argument(help="A plain Nemotron-H in the format of Hugging Face or NeMo.")
_CHECK = typer.Option("--check", help="Compare the weights of each --member with its cut, tensor by tensor.")
_EXAMPLE = typer.Option(
    "--example", help="Use a tiny parent with random weights, to try commands on, instead of PARENT and --config."
)


def command(
    context: typer.Context,
    parent: Annotated[Path | None, _PARENT] = None,
    out: Annotated[Path | None, options.out("The family folder to write.")] = None,
    config: Annotated[Path | None, options.CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    length: Annotated[int, options.SEQ_LENGTH] = 256,
    device: Annotated[str, options.device("the parent runs, with --data")] = "cpu",
    member: Annotated[list[str] | None, _MEMBER] = None,
    check: Annotated[bool, _CHECK] = False,
    example: Annotated[bool, _EXAMPLE] = False,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, options.as_json("the members")] = False,
) -> None:
    """Make a family from a parent without training.

    With --data the command measures the importance of channels, heads and layers by forward passes, unless the block
    names a ranking. It sorts the weights, and where the block searches shapes it takes those of the lowest untrained
    loss. It reads one layer at a time, so PARENT may be larger than the memory.

    Without --data, if the block names a ranking, the command sorts the weights by it. Otherwise the weights keep their
    stored order, and members keep the front of each width, as in published families, unless the block gives stripes.
    In unsorted weights the choice of a member's channels is arbitrary. The members are even cuts that meet the block's
    budgets, unless it names a file of shapes.

    With --member the command makes a family of a parent and the smaller models that others cut from it, such as
    NVIDIA's. No weights are copied: the command writes elastic.json into PARENT. Exit code 1 if --check finds a
    difference.

    Examples: `nemo-elastic init parent/ --data text/ --config elastic.yaml --out family/`,
    `nemo-elastic init elastic-12b/ --member 9b=published-9b/ --member 6b=published-6b/config.json`, or
    `nemo-elastic init --example --out family/`
    """
    if example and any((parent, config, data, member)):
        raise ElasticError("--example: is not allowed with PARENT, --config, --data or --member")
    if member and any((config, data, out)):
        raise ElasticError("--member: is not allowed with --config, --data or --out")
    if data is None:
        options.refuse(context, "belongs to --data, which is not given", "length", "device")
    if check and not member:
        raise ElasticError("--check: requires --member")
    if parent is not None and member:
        _join(parent, _places(member), check, force, json)
        return
    wanted = {} if example else {"PARENT": parent, "--config": config}
    missing = next((name for name, value in (wanted | {"--out": out}).items() if value is None), None)
    if missing is not None or out is None:
        raise ElasticError(f"{missing}: is missing" + ("" if missing == "--out" else "; or give --example"))
    check_output(out, force, parent, config, data, kind=UNTRAINED)
    if parent is None or config is None:
        with writing(f"writing {out}", quiet=json) as progress:
            write_example(out, force=force, progress=progress)
    else:
        _init(parent, config, out, data, length, device, force, json)
    _show(out, json)


def _init(
    parent: Path, config: Path, out: Path, data: Path | None, length: int, device: str, force: bool, json: bool
) -> None:
    """Write the family `out` without training.

    With `data`, in sequences of `length` tokens, the parent is ranked unless the block names a ranking, and shapes are
    searched where the block asks for it.
    """
    block = ElasticConfig.load(config)
    if data is None:
        with writing(f"writing {out}", quiet=json) as progress:
            init_family(parent, block, out, force=force, progress=progress)
        return
    from nemo_elastic.data.eval_data import training_rows
    from nemo_elastic.ranking import RankOptions
    from nemo_elastic.runtime.storage import check_device
    from nemo_elastic.slicing.streamed import Sequences

    check_device(device, "--device")
    source = open_source(parent)
    rows, provenance = training_rows(data, source, block.importance.samples, length)
    with counting("ranking", json) as bar:
        sequences = Sequences(rows, provenance, device, lambda phase, done, total: bar(done, total, phase))
        init_family(
            parent, block, out, sequences=sequences, force=force, progress=lambda *sizes: bar(*sizes, "writing")
        )
    if block.ranking is None and not json:
        typer.echo(f"{out}: {stream_line(RankOptions.of(block, source.parent).hidden, source.parent)}")


def _show(folder: Path, json: bool, **more: Any) -> Shapes:
    """Print the members of a family that was written."""
    shapes = read_shapes(folder)
    spec, provenance = served_as(shapes.config), shapes.origin.provenance
    if json:
        options.print_json(describe(shapes, spec) | more)
        return shapes
    print_members(shapes, shapes.members, spec, str(folder))
    typer.echo(f"{folder}: {stripes_line(shapes.parent)}")
    for name, loss in provenance.get(SEARCHED, {}).items():
        typer.echo(f"{name}: {loss} nats per token from the parent, untrained")
    if "left_out" in provenance:
        typer.echo(f"{folder}: without {provenance['left_out']}")
    return shapes


def _places(given: Sequence[str]) -> dict[str, str]:
    """Members as the options give them: name -> folder or file."""
    out: dict[str, str] = {}
    for text in given:
        name, _, place = text.partition("=")
        if not name or not place:
            raise bad("--member", text, "NAME=CHILD, such as 6b=published-6b/")
        if name in out:
            raise ElasticError(f"--member: {name!r} is given twice")
        out[name] = place
    return out


def _join(parent: Path, places: Mapping[str, str], check: bool, force: bool, json: bool) -> None:
    """Make a family of published members, and print what was compared."""
    joined = join_family(parent, places, check=check, force=force)
    checks = {name: asdict(one) for name, one in joined.checks.items()}
    if not json:
        for name, one in joined.checks.items():
            typer.echo(f"{name}: {'ok' if one.ok else 'FAILED'}, {one.figure}")
        for name in joined.unsure:
            front = "keeps the front of each width, and of each group's Mamba heads"
            typer.echo(f"{name}: {front}; not compared, it has no weights")
    if not joined.ok:
        if json:
            options.print_json({"ok": False, "checks": checks})
        raise typer.Exit(1)
    folder = local_folder(parent)
    shapes = _show(folder, json, checks=checks, unsure=list(joined.unsure))
    if shapes.parent.has(SHARDS) and not json:
        typer.echo(
            f"{folder}: a member keeps the front of each of {shapes.parent.size(SHARDS)} parts of the Mamba heads"
        )
