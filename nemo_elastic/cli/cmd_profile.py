# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic profile`: what layers of each kind and width take on this machine."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.latency import PHASES, REQUEST, Workload
from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import require
from nemo_elastic.formats.checkpoint import Shapes
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.io.outputs import check_file
from nemo_elastic.io.values import three_digits
from nemo_elastic.profile.measure import Stop, empty_table, measure, resume, save, widths_of
from nemo_elastic.profile.roofline import on_paper
from nemo_elastic.slicing.card import config_dtype

if TYPE_CHECKING:
    from nemo_elastic.profile.engines import Engine

#: widths that are measured of each axis, ends included, and when an entry is known well enough
WIDTHS, STOP = 3, Stop()


#: what runs the models
Runs = Enum("Runs", {"runtime": "runtime", "transformers": "transformers", "vllm": "vllm"}, type=str)

_CONFIG = "YAML file with the `elastic:` block, for its axes; the family's axes if left out."
_ENGINE = typer.Option("--engine", help="Engine that runs the models.")
_GPU = typer.Option("--gpu", help="Compute the table from the data sheet of this GPU, instead of measuring.")


def command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A family, or with --config any plain Nemotron-H folder.")],
    out: Annotated[Path, options.out("The file to write: JSON.")],
    config: Annotated[Path | None, typer.Option("--config", help=_CONFIG)] = None,
    engine: Annotated[Runs, _ENGINE] = Runs.runtime,
    batch: Annotated[int, options.number("--batch", "Sequences served at once.", high=options.BATCH)] = 1,
    prompt: Annotated[int, options.number("--prompt-tokens", "Tokens of each prompt.")] = 512,
    answer: Annotated[int, options.number("--answer-tokens", "Tokens of each answer.", low=2)] = 128,
    device: Annotated[str, options.device("models run")] = "cpu",
    gpu: Annotated[options.Gpu | None, _GPU] = None,
    force: Annotated[bool, options.force("an existing table")] = False,
    json: Annotated[bool, options.as_json("the table")] = False,
) -> None:
    """Measure the time of layers of each kind and width, for budgets in milliseconds.

    For each kind and width, two models with random weights in the source's dtype answer in turns. They differ only in
    their number of such layers. They run until the difference of their times is known, or for a minute. Each axis is
    measured at three widths, and times between the widths are interpolated linearly. After Ctrl-C the same command
    continues where it was.

    `latency` of a budget, `slice --latency` and `inspect --latency` read the table, which is valid for this parent,
    machine and workload.

    Example: `nemo-elastic profile family/ --engine vllm --batch 8 --device cuda --out h100.json`, or from a data sheet
    `nemo-elastic profile family/ --gpu h100 --batch 8 --out paper.json`.
    """
    if gpu is not None:
        options.refuse(context, "is for a measured table; with --gpu nothing is measured", "engine", "device")
    shapes = read_shapes(source)
    parent, axes = _axes(shapes, config)
    goes_on = gpu is None and out.is_file()  # where it is not finished, see `measure.resume`
    check_file(out, force or goes_on, source, config)
    work = Workload(batch, prompt, answer, config_dtype(shapes.config))
    measured = widths_of(parent, axes, WIDTHS)
    if gpu is not None:
        table = on_paper(parent, measured, work, gpu.value)
        save(out, table)
    else:
        run = _engine(engine, work, device)
        empty = empty_table(parent, measured, "measured", run.name, work)
        table = empty if force else resume(out, empty)
        with counting(run.name, json, MofNCompleteColumn()) as bar:
            table = measure(out, table, parent, measured, run, STOP, bar)
    if json:
        options.print_json(table)
        return
    whole = table.seconds(parent, parent.full)
    parts = ", ".join(f"{phase} {three_digits(1e3 * whole[phase])} ms" for phase in (*PHASES, REQUEST))
    typer.echo(f"{out}: {table}; the parent takes: {parts}")
    bounds = [bound for grid in table["grids"].values() for bound in grid.get("bounds") or ()]
    if bounds:
        widest = "unknown for some" if None in bounds else f"at most {max(bounds):.1%}"
        typer.echo(f"half of the interval of a median, as a share of the model's time: {widest}")


def _axes(shapes: Shapes, config: Path | None) -> tuple[Parent, dict[str, AxisConfig]]:
    """The parent, with the stripes of the block or the family, and choices of every axis."""
    if config is not None:
        block = ElasticConfig.with_axes_of(config)
        return block.parent_shape(shapes.parent), block.resolve_axes(shapes.parent)
    family = shapes.origin.family
    if family is None:
        raise ElasticError(f"{shapes.folder}: is one model, not a family; give the axes by --config")
    return family.parent, dict(family.axes)


def _engine(runs: Runs, work: Workload, device: str) -> Engine:
    from nemo_elastic.profile.engines import Engine
    from nemo_elastic.runtime.storage import check_device

    if runs is Runs.runtime:
        check_device(device, "--device")
    else:
        require(runs.value)
    return Engine(runs.value, work, device, sys.executable)
