# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Run a recipe of this folder on this machine: torchrun, one process per GPU.

    python recipes/run_local.py --recipe nemotron_elastic_8b --parent /checkpoints/8b --dir /runs/8b \
        --data 0.7 /data/code 0.3 /data/web --devices 8 --gpu h200

--dryrun DIR starts nothing: it writes the commands to a folder and prints a table of the jobs. See docs/clusters.md.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_elastic.core.precision import SCHEMES

if TYPE_CHECKING:
    import nemo_run as run

RECIPES = (
    *(f"{host}nemotron_elastic_{size}" for host in ("", "bridge/") for size in ("12b", "9b", "8b")),
    "bridge/nemotron_elastic_30b_a3b",
    *("nemotron_elastic_12b_sft", "bridge/nemotron_elastic_4b_sft", "bridge/nemotron_elastic_30b_a3b_sft"),
)


def get_parser(description: str | None) -> argparse.ArgumentParser:
    """Options that are the same wherever a recipe runs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", required=True, choices=RECIPES)
    parser.add_argument("--parent", required=True, help="checkpoint of the parent")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="[WEIGHT] PREFIX",
        help="Megatron token files, without .bin and .idx; of a recipe …_sft a folder of conversations",
    )
    parser.add_argument(
        "--long-data", nargs="+", metavar="[WEIGHT] PREFIX", help="those of the stages after the first, if others"
    )
    parser.add_argument("--dir", required=True, help="folder for everything, that all nodes see")
    parser.add_argument(
        "--tokenizer", help="folder of the parent's tokenizer, or its name on a hub; by default that in NeMo's recipe"
    )
    parser.add_argument("--devices", type=int, default=8, help="GPUs per node")
    parser.add_argument("--gpu", default="h100", help="their kind, for the layout: h100 or h200")
    parser.add_argument(
        "--quantize",
        choices=SCHEMES,
        help="with a stage 3, in which members learn on weights of this precision",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with the `elastic:` block, in place of the recipe's"
    )
    parser.add_argument("--dryrun", metavar="DIR", help="start nothing: write what would be sent, print a table")
    return parser


def local_executor(nodes: int, devices: int) -> run.LocalExecutor:
    """torchrun on this machine, see `nemo_elastic.hosts.common.experiment`."""
    from nemo_elastic.hosts.common import experiment as jobs

    return jobs.local_executor(nodes, devices)


def experiment(args: argparse.Namespace, executors: Any, num_nodes: int, repeat: int = 1) -> None:
    """Run the recipe that the options name; a mistake of the user's is one line and exit code 2."""
    from nemo_elastic.errors import exit_in_one_line

    with exit_in_one_line():
        recipe = importlib.import_module(args.recipe.replace("/", "."))
        if getattr(args, "rehearse", None):
            rehearse(args, recipe.FAMILY, executors, num_nodes)
            return
        recipe.family_experiment(
            args.parent,
            args.data,
            args.dir,
            long_data=args.long_data,
            tokenizer=args.tokenizer,
            num_nodes=num_nodes,
            num_gpus_per_node=args.devices,
            gpu=args.gpu,
            executors=executors,
            repeat=repeat,
            quantize=args.quantize,
            block=args.config,
            dryrun=args.dryrun,
        )


def rehearse(args: argparse.Namespace, family: Any, executors: Any, num_nodes: int) -> None:
    """Submit the recipe's jobs, scaled down, see `nemo-elastic rehearse`."""
    from nemo_elastic.rehearsal.run import rehearsal_of
    from nemo_elastic.rehearsal.short import Short

    short = Short(ranks=args.rehearse, cuda=True)
    machines = {"nodes": num_nodes, "devices": args.devices, "gpu": args.gpu}
    rehearsal = rehearsal_of(family, args.dir, short, args.quantize, args.config, **machines)
    rehearsal.submit(executors, f"{family.name}-rehearsal", dryrun=args.dryrun)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    args = get_parser(__doc__).parse_args(argv)
    args.dir = str(Path(args.dir).resolve())
    experiment(args, local_executor, num_nodes=1)


if __name__ == "__main__":
    main()
