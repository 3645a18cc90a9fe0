# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic train`: what `nemo elastic train` does."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import require

#: who trains
Host = Enum("Host", {"nemo": "nemo", "bridge": "bridge"}, type=str)

_OVERRIDES = typer.Argument(
    metavar="[FIELD=VALUE]...",
    help="Fields of the recipe; fields of the block, such as elastic.search.tokens=4096; teacher=, stage=, previous=, "
    "total_steps=, out=; run.executor= and further options of NeMo-Run.",
)
_FACTORY = typer.Option("--factory", "-f", help="Name of a stock recipe, e.g. nemotron_nano_12b_v2.")
_YAML = typer.Option("--yaml", help="File with the block `elastic:` and fields of the recipe.")
_TO_YAML = typer.Option("--to-yaml", metavar="FILE", help="Write the whole run for --yaml, and start nothing.")
_YES = typer.Option("--yes", help="Start without asking. --to-yaml and --yes are for --host nemo.")
_HOST = typer.Option("--host", help="Host of the training: NeMo 2.7 or Megatron-Bridge.")

command = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@command.command(context_settings={"ignore_unknown_options": True})
def train(
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    factory: Annotated[str | None, _FACTORY] = None,
    yaml: Annotated[str | None, _YAML] = None,
    dryrun: Annotated[bool, typer.Option("--dryrun", help="Print the run and start nothing.")] = False,
    to_yaml: Annotated[str | None, _TO_YAML] = None,
    yes: Annotated[bool, _YES] = False,
    host: Annotated[Host, _HOST] = Host.nemo,
) -> None:
    """Train a nested family with any stock NeMo recipe of a Nemotron-H and an `elastic:` block.

    Before anything starts, the command prints the settings of the recipe that it changes, and refuses settings that do
    not fit. `nemo elastic train` is the same command.

    Example: `nemo-elastic train --factory nemotron_nano_12b_v2 --yaml elastic.yaml teacher=/checkpoints/12b`, or on a
    CPU: `nemo-elastic train --factory nemotron_elastic_tiny --yaml elastic.yaml teacher=parent/ trainer.max_steps=20`.
    On Megatron-Bridge, one process per GPU: `torchrun --nproc-per-node 8 -m nemo_elastic train --host bridge
    --factory nemotron_nano_12b_v2_pretrain_config --yaml elastic.yaml teacher=/checkpoints/12b train.train_iters=100`.
    """
    given = [*(overrides or [])]
    given += ["--to-yaml", to_yaml] if to_yaml is not None else []
    given += ["--yes"] if yes else []
    _check(yaml, given, not dryrun)
    if host is Host.bridge:
        option = next((word for word in given if word.startswith("-")), None)
        if option is not None:
            raise ElasticError("is an option of NeMo-Run; with --host bridge it is not allowed", option)
        require("megatron.bridge")
        from nemo_elastic.hosts.bridge.cli import main as train_on_bridge

        train_on_bridge(given, factory, yaml, dryrun)
        return
    require("nemo")
    from nemo_elastic.hosts.common.logs import import_quietly

    with import_quietly():
        from nemo_elastic.hosts.nemo.cli.entry import main

    argv = [*given, *(["--dryrun"] if dryrun else [])]
    for name, value in (("--factory", factory), ("--yaml", yaml)):
        argv += [] if value is None else [name, value]
    main(argv, "nemo-elastic train")


def _check(yaml: str | None, overrides: list[str], starts: bool) -> None:
    """Refuse a wrong block, and files that a run needs here and are not there, at once: NeMo's import takes longer."""
    from nemo_elastic.hosts.common.run_file import RunFile

    file = RunFile.load(yaml).override([o for o in overrides if "=" in o and not o.startswith("-")])
    block = file.settings.get("elastic")
    if isinstance(block, dict) or (isinstance(block, str) and Path(block).exists()):  # else a path on a cluster
        ElasticConfig.of(block)
    if starts and "run" not in file.recipe and not any(o.startswith(("run.executor", "--to-")) for o in overrides):
        file.check_here()
