# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic plan`: memory and cost of a training run per GPU, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE

from nemo_elastic.cli import options
from nemo_elastic.cli.show import print_table
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import counts
from nemo_elastic.core.family import Parent
from nemo_elastic.core.precision import torn_widths
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.io.values import three_digits
from nemo_elastic.plan import PAPER, Duration, Layout, RunShape, choose, duration, layouts, preset
from nemo_elastic.plan.activations import Routing

_PARENT = typer.Option("--parent", help="Folder of the parent, or the name of a known parent.")
_RECIPE = typer.Option(
    "--recipe",
    help="Name of a recipe in recipes/, or its file, instead of --config and --parent; needs the recipe's host.",
)
_LENGTH = options.number("--seq-length", "Tokens per sequence; the paper's number for the stage if left out.")
_GLOBAL = options.number(
    "--global-batch-size", "Sequences per step; the paper's number if left out.", high=options.BATCH
)
_STAGE = options.number("--stage", "Stage of the training: 1 finds the shapes, 2 and 3 train them.", high=3)


def command(
    config: Annotated[Path | None, options.CONFIG] = None,
    parent: Annotated[str | None, _PARENT] = None,
    recipe: Annotated[str | None, _RECIPE] = None,
    seq_length: Annotated[int | None, _LENGTH] = None,
    global_batch: Annotated[int | None, _GLOBAL] = None,
    gpus: Annotated[int, options.GPUS] = 128,
    gpu: Annotated[options.Gpu, options.GPU] = options.Gpu.h100,
    stage: Annotated[int, _STAGE] = 1,
    json: Annotated[bool, options.as_json("the layouts")] = False,
) -> None:
    """List the parallel layouts of a run, the fastest first, and say which fit. Formulas need no GPU and no NeMo.

    The formulas are the same for NeMo and Megatron-Bridge. Among the layouts that fit and are within 1.5 % of the
    fastest, the one with the least memory is called best. Known parents: nemotron-nano-12b-v2, nemotron-nano-9b-v2,
    nemotron-h-8b (and 4b, 47b, 56b), nemotron-h-tiny, nemotron-3-nano-4b, nemotron-3-nano-30b-a3b. For a parent with
    experts, EP is the number of ranks that share the experts, memory counts all parameters, and time counts the active
    parameters. Times are estimates for comparing layouts. Exit code 1 if nothing fits.

    Example: `nemo-elastic plan --config elastic.yaml --parent nemotron-nano-12b-v2 --stage 2`
    """
    paper = PAPER.in_low_precision().stage(stage)
    name, shape, block, sums, routing = _described(config, parent, recipe)
    run = RunShape(
        paper.seq_length if seq_length is None else seq_length,
        paper.global_batch_size if global_batch is None else global_batch,
        gpus=gpus,
        gpu=gpu.value,
        stage=stage,
        gradients=sums,
        routing=routing,
    )
    every = layouts(shape, block, run)
    chosen = choose(every)
    time = None if chosen is None else duration(chosen, paper.max_steps)
    if json:
        options.print_json(_record(name, shape, run, every, chosen, time))
    else:
        _print(name, shape, run, every, chosen)
        if time is not None:
            typer.echo(f"{time}; without validation, saves and starts")
    if chosen is None:
        raise typer.Exit(1)
    _say_torn(shape, block)


def _described(
    config: Path | None, parent: str | None, recipe: str | None
) -> tuple[str, Parent, ElasticConfig, str, Routing]:
    """What is planned: its name, the parent's shape, the block, what gradients are summed in, its routing."""
    if recipe is None:
        if config is None:
            raise bad("--config", None, "a YAML file with the elastic block, and --parent; or --recipe")
        if parent is None:
            raise bad("--parent", None, "a folder with the parent, or the name of a known one; or --recipe")
        return parent, _read_parent(parent), ElasticConfig.load(config), "fp32", Routing()
    if config is not None or parent is not None:
        raise bad("--recipe", recipe, "leave out --config and --parent: the recipe has both")
    from nemo_elastic.hosts.common.recipe_file import find_recipe

    family = find_recipe(recipe)()
    sums, routing = family.precision.gradients, family.routing
    return f"{family.name}: {family.shape}", preset(family.shape), family.config, sums, routing


def _say_torn(parent: Parent, block: ElasticConfig) -> None:
    """Say on stderr which widths low precision cannot cut as bytes: that is chosen now, and met after training."""
    whole = block.parent_shape(parent)
    for (axis, row), widths in torn_widths(whole, block.choices(whole)).items():
        listed = ", ".join(map(str, widths))
        typer.echo(
            f"elastic.axes.{axis}: {listed} cut {row} inside blocks of NVFP4: such members need `slice --requantize`",
            err=True,
        )


def _read_parent(parent: str) -> Parent:
    if not Path(parent).is_dir():
        return preset(parent)
    shapes = read_shapes(parent)
    if shapes.subnet != shapes.parent.full:
        raise ElasticError(f"--parent: {parent} is a member cut out of a parent; training starts from a whole one")
    return shapes.parent


def _record(
    name: str, parent: Parent, run: RunShape, every: Sequence[Layout], chosen: Layout | None, time: Duration | None
) -> dict[str, Any]:
    return {
        "parent": name,
        **counts(parent, parent.full),
        "run": asdict(run) | {"usable_bytes": round(run.usable)},
        "best": chosen.to_json() if chosen is not None else None,
        "time": asdict(time) if time is not None else None,
        "layouts": [layout.to_json() for layout in every],
    }


def _print(name: str, parent: Parent, run: RunShape, every: Sequence[Layout], chosen: Layout | None) -> None:
    totals = (f"{count:,} {key.replace('_', ' ')}" for key, count in counts(parent, parent.full).items())
    title = (
        f"{name} ({', '.join(totals)}), stage {run.stage}: {run.global_batch} x "
        f"{run.seq_length} tokens on {run.gpus} {run.gpu.upper()}; GB per GPU, {run.usable / 1e9:.1f} usable"
    )
    rows = []
    for layout in every:
        sizes = {"TP": layout.tensor, "CP": layout.context, "PP": layout.pipeline, "DP": layout.data}
        sizes |= {} if layout.expert is None else {"EP": layout.expert}
        flags = {"SP": layout.sequence_parallel, "recompute": layout.recompute}
        rows.append(
            {name: str(number) for name, number in sizes.items()}
            | {name: "yes" if flag else "" for name, flag in flags.items()}
            | {"s/step": three_digits(layout.seconds)}
            | {name: f"{held / 1e9:.1f}" for name, held in layout.memory.to_json().items()}
            | {"fits": "best" if layout is chosen else "yes" if layout.fits else "no"}
        )
    print_table(title, rows, box=SIMPLE, show_edge=False, padding=(0, 1))
    typer.echo("total: all parts, but of loss and backward the larger one")
    if chosen is None:
        least = min(every, key=lambda layout: layout.memory.total)
        typer.echo(f"nothing fits; the smallest layout, {least}, {least.reason}")
        return
    work = {part: f"{flops / 1e15:,.4g}" for part, flops in chosen.work.to_json().items()}
    times = " to ".join(map(three_digits, (chosen.seconds, chosen.seconds_high)))
    typer.echo(
        f"best: {chosen}, {chosen.reason}; a step is {work['total']} PFLOP (student {work['student']}, "
        f"recomputation {work['recompute']}, teacher {work['teacher']}), {times} s"
    )
