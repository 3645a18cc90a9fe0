# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic profile`: what layers of each kind and width take on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import BATCH, TOKENS, Dtype, Gpu, as_json, print_json, within

if TYPE_CHECKING:
    from nemo_elastic.core.budget import AxisConfig
    from nemo_elastic.core.family import Parent
    from nemo_elastic.core.latency import LatencyTable, Workload
    from nemo_elastic.formats.source import Shapes
    from nemo_elastic.profile.engines import Engine
    from nemo_elastic.profile.measure import Stop, Widths

__all__ = ["command"]

_CONFIG = "YAML file with the `elastic:` block, for its axes; those of the family if left out."
_ENGINE = typer.Option("--engine", help="What runs the models: runtime, transformers or vllm.")
_DTYPE = "Of the weights; the source's if left out."
_PYTHON = typer.Option("--python", help="Interpreter of an environment with the engine, if not this one.")
_GPU = typer.Option("--gpu", help="A table on paper in place of a measured one, from the data sheet of such a GPU.")
_WIDTHS = within(2, 64, "--widths", "Widths that are measured of each axis, ends included; between them it is linear.")
_SECONDS = within(
    0.0, 1e6, "--seconds",
    "After which no further round of an entry begins; it needs six. 0 takes one, whose interval is not known.",
)  # fmt: skip


def command(
    source: Annotated[Path, typer.Argument(help="A family, or with --config any plain Nemotron-H folder.")],
    out: Annotated[Path, options.out("The file to write: JSON.")],
    config: Annotated[Path | None, typer.Option("--config", help=_CONFIG)] = None,
    engine: Annotated[str, _ENGINE] = "runtime",
    batch: Annotated[int, within(1, BATCH, "--batch", "Sequences served at once.")] = 1,
    prompt: Annotated[int, within(1, TOKENS, "--prompt-tokens", "Tokens of each prompt.")] = 512,
    answer: Annotated[int, within(2, TOKENS, "--answer-tokens", "Tokens that each gets.")] = 128,
    dtype: Annotated[Dtype | None, typer.Option("--dtype", help=_DTYPE)] = None,
    device: Annotated[str, typer.Option("--device", help="Where models run: cpu, cuda, cuda:1.")] = "cpu",
    python: Annotated[Path | None, _PYTHON] = None,
    gpu: Annotated[Gpu | None, _GPU] = None,
    widths: Annotated[int, _WIDTHS] = 3,
    seconds: Annotated[float, _SECONDS] = 60.0,
    force: Annotated[bool, options.force("an existing table")] = False,
    json: Annotated[bool, as_json("the table")] = False,
) -> None:
    """Measure what layers of each kind and width take, for budgets in milliseconds.

    Two models with random weights, which differ in how many such layers they have, answer in turns until their
    difference is known. Ctrl-C loses nothing: the same command goes on. The table serves `latency` of a budget,
    `slice --latency` and `inspect --latency`; it is for this parent, machine and workload.

    Example: `nemo-elastic profile family/ --engine vllm --batch 8 --device cuda --out h100.json`, or on paper:
    `nemo-elastic profile family/ --gpu h100 --batch 8 --out paper.json`.
    """
    from nemo_elastic.core.latency import Workload
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.formats.folders import read_shapes
    from nemo_elastic.io.outputs import check_file
    from nemo_elastic.profile.measure import Stop, save, widths_of
    from nemo_elastic.slicing.card import dtype_of

    if gpu is not None:
        ignored = {"--engine": engine != "runtime", "--device": device != "cpu", "--python": python is not None}
        for name in (name for name, given in ignored.items() if given):
            raise ElasticError(f"{name}: is for measuring; a table on paper (--gpu) runs nothing")
    shapes = read_shapes(source)
    parent, axes = _axes(shapes, config)
    goes_on = gpu is None and out.is_file()  # where it is not finished, see `measure.resume`
    check_file(out, force or goes_on, source, config, python)
    work = Workload(batch, prompt, answer, dtype.value if dtype is not None else dtype_of(shapes.config))
    measured = widths_of(parent, axes, widths)
    if gpu is not None:
        from nemo_elastic.profile.roofline import on_paper

        table = on_paper(parent, measured, work, gpu.value)
        save(out, table)
    else:
        runs, stop = _engine(engine, work, device, python), Stop(seconds=seconds)
        table = _measure(out, force, parent, measured, runs, stop, json)
    if json:
        print_json(table)
        return
    _print(out, table, parent)


def _axes(shapes: Shapes, config: Path | None) -> tuple[Parent, dict[str, AxisConfig]]:
    """The parent, with the stripes of the block or the family, and choices of every axis."""
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.errors import ElasticError

    if config is not None:
        block = ElasticConfig.with_axes_of(config)
        return block.parent_shape(shapes.parent), block.resolve_axes(shapes.parent)
    family = shapes.origin.family
    if family is None:
        raise ElasticError(f"{shapes.folder}: is one model, not a family; --config gives the axes")
    return family.parent, dict(family.axes)


def _engine(name: str, work: Workload, device: str, python: Path | None) -> Engine:
    from nemo_elastic.errors import bad
    from nemo_elastic.extras import require
    from nemo_elastic.profile.engines import ENGINES, RUNTIME, Engine
    from nemo_elastic.runtime.storage import check_device

    if name not in ENGINES:
        raise bad("--engine", name, f"one of {', '.join(ENGINES)}")
    if name == RUNTIME:
        check_device(device, "--device")
    elif python is None:
        require(name)
    return Engine(name, work, device, str(python or sys.executable))


def _measure(
    out: Path, force: bool, parent: Parent, widths: Widths, engine: Engine, stop: Stop, quiet: bool
) -> LatencyTable:
    """Measure with a bar that says what is measured and how long it takes."""
    from rich.progress import MofNCompleteColumn

    from nemo_elastic.cli.show import counting
    from nemo_elastic.profile.measure import empty_table, measure, resume

    empty = empty_table(parent, widths, "measured", engine.name, engine.work)
    table = empty if force else resume(out, empty)
    with counting(engine.name, quiet, MofNCompleteColumn()) as bar:
        return measure(out, table, parent, widths, engine, stop, bar)


def _print(out: Path, table: LatencyTable, parent: Parent) -> None:
    """Milliseconds of the parent, and of each kind's layers at its ends."""
    from nemo_elastic.core.latency import PHASES, REQUEST
    from nemo_elastic.io.values import three_digits

    whole = table.seconds(parent, parent.full)
    parts = ", ".join(f"{phase} {three_digits(1e3 * whole[phase])} ms" for phase in (*PHASES, REQUEST))
    typer.echo(f"{out}: {table}; the parent takes: {parts}")
    for name, grid in table.grids.items():
        ends = {
            phase: [three_digits(1e3 * s) for s in (times.min(), times.max())] for phase, times in grid.seconds.items()
        }
        each = ", ".join(f"{phase} {low} to {high} ms" for phase, (low, high) in ends.items())
        sizes = " x ".join(str(len(widths)) for widths in grid.axes.values())
        typer.echo(f"  {name} ({sizes} widths): {each}")
    bounds = [bound for grid in table["grids"].values() for bound in grid.get("bounds") or ()]
    if bounds:
        widest = "not known of some" if None in bounds else f"at most {max(bounds):.1%}"
        typer.echo(f"  half of each median's interval, over the time of its model: {widest}")
