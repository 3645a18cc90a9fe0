# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rehearse`: a large recipe's own jobs, scaled down."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.log_capture import LogCapture
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.recipe_file import find_recipe
from nemo_elastic.io.outputs import Output, check_output, filled_dir, is_empty
from nemo_elastic.io.write import absolute
from nemo_elastic.plan import NODE

#: precisions of a stage 3
Precision = Enum("Precision", {"nvfp4": "nvfp4", "fp8": "fp8"}, type=str)

_RECIPE = typer.Argument(help="Name of a recipe in recipes/ (bridge/… for Megatron-Bridge), or its file.")
_RANKS = options.number("--ranks", "Local processes or GPUs; a power of two.", high=64)
_QUANTIZE = typer.Option("--quantize", help="Add a stage 3 in this precision.")
_CONFIG = typer.Option("--config", help="YAML file with an `elastic:` block that replaces the recipe's block.")


def command(
    recipe: Annotated[str, _RECIPE],
    out: Annotated[Path, options.out("The folder to fill.")],
    gpus: Annotated[int, options.GPUS] = 128,
    gpu: Annotated[options.Gpu, options.GPU] = options.Gpu.h100,
    ranks: Annotated[int, _RANKS] = 4,
    quantize: Annotated[Precision | None, _QUANTIZE] = None,
    config: Annotated[Path | None, _CONFIG] = None,
    force: Annotated[bool, options.force("the folder of an earlier rehearsal")] = False,
    json: Annotated[bool, options.as_json("the changes, jobs and checks")] = False,
) -> None:
    """Run a large recipe's jobs on this machine before the real run: rank, stage 1, stage 2, slice.

    The jobs are those of the recipe. Only widths, lengths, batches, steps and ranks are smaller, and the command lists
    every setting that it changes. It kills stage 1 and resumes it. The file rehearsal.log in the folder has the jobs'
    output. Exit code 1 if a job or a check fails. The recipe names its host, NeMo or Megatron-Bridge.

    Example: `nemo-elastic rehearse nemotron_elastic_9b --out runs/rehearsal`
    """
    from nemo_elastic.rehearsal.short import Short

    short = Short(ranks=ranks)
    nodes, rest = divmod(gpus, NODE)
    if rest and nodes:
        raise bad("--gpus", gpus, f"whole nodes of {NODE}, or fewer than one")
    folder, kind = absolute(out).resolve(), Output("a rehearsal")
    if config is not None or not is_empty(folder):
        check_output(folder, force, config, kind=kind)
    if config is not None:
        ElasticConfig.load(config)  # a mistake in it needs no host to be told
    load = find_recipe(recipe)
    with LogCapture() as capture:
        with capture.live(capture.err, lambda: "the recipe's jobs and those of its rehearsal"):
            family = load()
            from nemo_elastic.hosts.common.experiment import local_executor
            from nemo_elastic.rehearsal.report import LOG, print_changes, print_end, print_report
            from nemo_elastic.rehearsal.run import rehearsal_of, run_by

            machines = {"nodes": max(1, nodes), "devices": min(gpus, NODE), "gpu": gpu.value}
            precision = None if quantize is None else quantize.value
            rehearsal = rehearsal_of(family, str(folder), short, precision, config, **machines)
        if not json:
            print_changes(rehearsal.changed, capture.out)
        with filled_dir(folder, kind, force):
            capture.keep(folder / LOG)
            report = rehearsal.run(run_by(local_executor, family.name), capture.timed)
        if not json:
            print_report(report, capture.out)
        if report.failed:
            print_end(folder / LOG, capture.err)
    if json:
        options.print_json(report.to_json())
    if not report.ok:
        raise typer.Exit(1)
