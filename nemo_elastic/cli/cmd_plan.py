# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic plan`: memory and cost of a training run per GPU, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
_STAGE = options.number(
    "--stage", "Stage of the training: 1 finds the shapes, 2 and 3 train them. All layouts of the stage are listed.",
    high=3,
)  # fmt: skip
#: layouts of a stage that are listed where no stage is chosen
FEW = 5


def command(
    config: Annotated[Path | None, options.CONFIG] = None,
    parent: Annotated[str | None, _PARENT] = None,
    recipe: Annotated[str | None, _RECIPE] = None,
    seq_length: Annotated[int | None, _LENGTH] = None,
    global_batch: Annotated[int | None, _GLOBAL] = None,
    gpus: Annotated[int, options.GPUS] = 128,
    gpu: Annotated[options.Gpu, options.GPU] = options.Gpu.h100,
    stage: Annotated[int | None, _STAGE] = None,
    json: Annotated[bool, options.as_json("the layouts")] = False,
) -> None:
    """Reckon memory, hours and GPU-hours of a training before it starts. Formulas need no GPU and no NeMo.

    Without --stage the command adds up stages 1 and 2 and lists the fastest layouts of each; with --stage it lists
    all layouts of one. The formulas are the same for NeMo and Megatron-Bridge. Among the layouts that fit and are
    within 1.5 % of the fastest, the one with the least memory is called best. Known parents: nemotron-nano-12b-v2,
    nemotron-nano-9b-v2, nemotron-h-8b (and 4b, 47b, 56b), nemotron-h-tiny, nemotron-3-nano-4b,
    nemotron-3-nano-30b-a3b. For a parent with experts, EP is the number of ranks that share the experts, memory
    counts all parameters, and time counts the active parameters. Times are estimates for comparing layouts. Exit code
    1 if nothing fits.

    Example: `nemo-elastic plan --config elastic.yaml --parent nemotron-nano-12b-v2 --stage 2`
    """
    name, shape, block, sums, routing = _described(config, parent, recipe)
    numbers = [1, 2] if stage is None and seq_length is None and global_batch is None else [stage or 1]
    plans = []
    for number in numbers:
        paper = PAPER.in_low_precision().stage(number)
        run = RunShape(
            paper.seq_length if seq_length is None else seq_length,
            paper.global_batch_size if global_batch is None else global_batch,
            gpus=gpus, gpu=gpu.value, stage=number, gradients=sums, routing=routing,
        )  # fmt: skip
        every = layouts(shape, block, run)
        chosen = choose(every)
        plans.append(_Plan(run, every, chosen, None if chosen is None else duration(chosen, paper.max_steps)))
    times = [plan.time for plan in plans if plan.time is not None]
    fits = len(times) == len(plans)
    total = sum(times[1:], times[0]) if fits else None
    if json:
        record = {"parent": name, **counts(shape, shape.full), "stages": [plan.to_json() for plan in plans]}
        options.print_json(record | {"time": None if total is None else asdict(total)})
    else:
        totals = (f"{count:,} {key.replace('_', ' ')}" for key, count in counts(shape, shape.full).items())
        typer.echo(f"{name}:\n{', '.join(totals)}")
        for plan in plans:
            plan.show(None if stage else FEW)
        if total is not None and len(plans) > 1:
            typer.echo(f"\nboth stages: {total}")
        typer.echo("\nweights: with the teacher's; states: gradients and optimizer")
        typer.echo("batch: activations, with the peak of the loss or of one layer's backward pass")
        typer.echo("Times leave out ranking, validation, saves and starts of jobs.")
    if not fits:
        raise typer.Exit(1)
    _say_torn(shape, block)


@dataclass(frozen=True)
class _Plan:
    """One stage: its layouts, the one that is chosen, and the time of the paper's steps in that one."""

    run: RunShape
    every: Sequence[Layout]
    chosen: Layout | None
    time: Duration | None

    def to_json(self) -> dict[str, Any]:
        return {
            "run": asdict(self.run) | {"usable_bytes": round(self.run.usable)},
            "best": self.chosen.to_json() if self.chosen is not None else None,
            "time": asdict(self.time) if self.time is not None else None,
            "layouts": [layout.to_json() for layout in self.every],
        }

    def show(self, most: int | None) -> None:
        """Print the table, those that fit first, and the chosen layout's time; `most` limits the rows."""
        run, fitting = self.run, [layout for layout in self.every if layout.fits]
        machine = f"{run.gpus} {run.gpu.upper()}, {run.usable / 1e9:.1f} GB usable on each"
        rest = sorted((layout for layout in self.every if not layout.fits), key=lambda layout: layout.memory.total)
        shown = [*fitting, *rest][:most]
        typer.echo()
        typer.echo(f"stage {run.stage}: {run.global_batch} x {run.seq_length} tokens a step")
        print_table(
            f"GB per GPU; {machine}", [self._row(layout) for layout in shown], box=None, padding=(0, 1), pad_edge=False
        )
        typer.echo(f"{len(fitting)} of {len(self.every)} layouts fit; --json has all parts of all of them")
        if self.chosen is None:
            typer.echo(f"nothing fits; the smallest layout, {rest[0]}, {rest[0].reason}")
            return
        seconds = " to ".join(map(three_digits, (self.chosen.seconds, self.chosen.seconds_high)))
        shares = " to ".join(f"{share:.0%}" for share in self.chosen.utilization(run.gpu))
        typer.echo(f"best: {self.chosen}; {seconds} s/step (MFU {shares}, assumed)")
        typer.echo(str(self.time))

    def _row(self, layout: Layout) -> dict[str, str]:
        memory = layout.memory
        sizes = {
            "weights": memory.weights + memory.teacher, "states": memory.gradients + memory.optimizer,
            "batch": memory.activations + max(memory.loss, memory.transient), "total": memory.total,
        }  # fmt: skip
        return (
            {"layout": str(layout), "s/step": three_digits(layout.seconds)}
            | {part: f"{size / 1e9:.1f}" for part, size in sizes.items()}
            | {"fits": "best" if layout is self.chosen else "yes" if layout.fits else "no"}
        )


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
