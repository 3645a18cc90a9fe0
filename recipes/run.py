# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Run a family of families.py: here, on Slurm, or one of its jobs.

    $ python recipes/run.py --local --recipe nemotron_elastic_8b --parent /checkpoints/8b --dir /runs/8b \
        --data 0.7 /data/code 0.3 /data/web --devices 8 --gpu h200

    $ python recipes/run.py --slurm --recipe nemotron_elastic_12b --parent /checkpoints/12b --dir /runs/12b \
        --data 0.7 /data/code 0.3 /data/web --nodes 16 --host login.example.com --user me --job-dir /home/me/jobs \
        --account research --partition batch --image /images/nemo-elastic-25.11.sqsh \
        --mount /checkpoints /runs /data

    $ torchrun --nproc-per-node 8 recipes/run.py --job rank --recipe bridge/nemotron_elastic_12b \
        --parent /checkpoints/12b --dir /runs/12b --data 0.7 /data/code 0.3 /data/web

--local starts torchrun, one process per GPU. --slurm submits over SSH, in a container, each job after the one before
it; paths are those inside the container, that of the image is the cluster's. --job is what every rank of a job on
Megatron-Bridge calls. --dryrun DIR starts nothing and connects to nothing: it writes what would be run to a folder and
prints a table of the jobs. `--slurm --help` and so on show the options of one way. See docs/large_runs.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from families import FAMILIES, family

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.errors import bad, exit_in_one_line
from nemo_elastic.hosts.common.curriculum_run import JOBS, NODES
from nemo_elastic.plan import GPUS

if TYPE_CHECKING:
    import nemo_run as run

    from nemo_elastic.hosts.common.experiment import Executors

VARIABLES = {"TORCH_NCCL_AVOID_RECORD_STREAMS": "1", "NCCL_NVLS_ENABLE": "0"}
#: of the job that cuts the members and streams their weights: 2 GB for a 12B of safetensors; from a NeMo checkpoint it
#: was not measured
CPU_MEMORY = "32G"


def get_parser(way: str | None) -> argparse.ArgumentParser:
    """The options of one way, `local`, `slurm` or `job`; of all where none is named, for the help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--local", action="store_true", help="all jobs on this machine")
    ways.add_argument("--slurm", action="store_true", help="all jobs on a cluster")
    ways.add_argument("--job", choices=JOBS, help="this one, in this process and the others of torchrun")
    every = way != "job"
    parser.add_argument(
        "--recipe", required=True, choices=FAMILIES, metavar="NAME", help=f"one of {', '.join(FAMILIES)}"
    )
    parser.add_argument("--parent", required=every, help="checkpoint of the parent")
    parser.add_argument(
        "--data",
        required=every,
        default=[],
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
    if way != "local":
        parser.add_argument("--nodes", type=int, default=NODES, help="nodes of the stages; the ranking takes one")
    parser.add_argument("--devices", type=int, default=8, help="GPUs per node")
    parser.add_argument("--gpu", default="h100", help=f"their kind, for the layout: {', '.join(GPUS)}")
    parser.add_argument(
        "--quantize",
        choices=SCHEMES,
        help="with a stage 3, in which members learn on weights of this precision; the same for all jobs of a run",
    )
    if every:
        parser.add_argument(
            "--config", metavar="FILE", help="YAML file with the `elastic:` block, in place of the recipe's"
        )
        parser.add_argument("--dryrun", metavar="DIR", help="start nothing: write what would be sent, print a table")
    if way in (None, "slurm"):
        _add_slurm(parser, way is not None)
    return parser


def _add_slurm(parser: argparse.ArgumentParser, required: bool) -> None:
    """What only Slurm needs to know."""
    parser.add_argument("--host", help="login node; without it sbatch is called here")
    parser.add_argument("--user", help="user there")
    parser.add_argument("--identity", help="private key for the login")
    parser.add_argument(
        "--job-dir", required=required, help="folder on the cluster for scripts and logs, an absolute path"
    )
    parser.add_argument("--account", required=required)
    parser.add_argument("--partition", required=required)
    parser.add_argument("--cpu-partition", help="of the job that needs no GPU; that of the others by default")
    parser.add_argument("--time", default="04:00:00", help="limit of a job")
    parser.add_argument(
        "--jobs", type=int, help="jobs in a row for each stage; by default as many as it needs by plan"
    )
    parser.add_argument(
        "--image",
        required=required,
        help="container with nemo-elastic: a squashfs file on the cluster, or REGISTRY#NAME:TAG (docs/large_runs.md)",
    )
    parser.add_argument(
        "--rehearse",
        type=int,
        metavar="GPUS",
        help="the same jobs, scaled down, on so many GPUs of a node, with made text; --parent and --data are not read",
    )
    parser.add_argument("--mount", nargs="+", default=[], metavar="HOST[:CONTAINER]", help="folders in the container")
    parser.add_argument(
        "--offline", action="store_true", help="no job asks a hub; so it is by itself where --tokenizer is a folder"
    )


def offline(args: argparse.Namespace) -> bool:
    """Whether no job asks a hub: by --offline, or where the tokenizer, all that could come from one, is a folder."""
    return args.offline or (args.tokenizer is not None and os.path.isabs(args.tokenizer))


def slurm_executor(nodes: int, devices: int, *, args: argparse.Namespace) -> run.SlurmExecutor:
    """Slurm with Pyxis, through a tunnel, or from a login node where no host is given.

    A job without GPUs asks for none, shares its node, and may have a partition of its own.
    """
    import nemo_run as run

    from nemo_elastic.hosts.common.experiment import allocator

    if args.host:
        tunnel = run.SSHTunnel(host=args.host, user=args.user, job_dir=args.job_dir, identity=args.identity)
    else:
        tunnel = run.LocalTunnel(job_dir=os.path.join(args.job_dir, "experiments"))
    return run.SlurmExecutor(
        account=args.account,
        partition=args.partition if devices else args.cpu_partition or args.partition,
        job_name_prefix=f"{args.recipe.replace('/', '-')}.",
        time=args.time,
        tunnel=tunnel,
        nodes=nodes,
        ntasks_per_node=max(1, devices),
        gpus_per_node=devices or None,
        mem="0" if devices else CPU_MEMORY,
        exclusive=True if devices else None,
        container_image=args.image,
        container_mounts=[m if ":" in m else f"{m}:{m}" for m in args.mount],
        # the container has the package; nothing of this checkout is needed there
        packager=run.Packager(),
        env_vars=VARIABLES | allocator() | ({"TRANSFORMERS_OFFLINE": "1"} if offline(args) else {}),
    )


def experiment(args: argparse.Namespace, executors: Executors, **how: Any) -> None:
    """All jobs of a family."""
    family(args.recipe).family_experiment(
        args.parent, args.data, executors=executors, block=args.config, dryrun=args.dryrun, **given(args), **how
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What every way says of a run."""
    named = {name: getattr(args, name) for name in ("dir", "long_data", "tokenizer", "gpu", "quantize")}
    return named | {"num_nodes": getattr(args, "nodes", 1), "num_gpus_per_node": args.devices}


def rehearse(args: argparse.Namespace, executors: Executors) -> None:
    """Submit the recipe's jobs, scaled down, see `nemo-elastic rehearse`."""
    from nemo_elastic.rehearsal.run import rehearsal_of
    from nemo_elastic.rehearsal.short import Short

    recipe, short = family(args.recipe), Short(ranks=args.rehearse, cuda=True)
    machines = {"nodes": args.nodes, "devices": args.devices, "gpu": args.gpu}
    rehearsal = rehearsal_of(recipe, args.dir, short, args.quantize, args.config, **machines)
    rehearsal.submit(executors, f"{recipe.name}-rehearsal", dryrun=args.dryrun)


def run_job(args: argparse.Namespace) -> None:
    """One job of a family on Megatron-Bridge, on every rank of it."""
    if FAMILIES[args.recipe].host != "bridge":
        raise bad("--recipe", args.recipe, "with --job one on Megatron-Bridge, bridge/…")
    from nemo_elastic.hosts.bridge import curriculum

    recipe = family(args.recipe)
    given_run = recipe.run_of(args.parent, args.data, **given(args))
    curriculum.run_job(curriculum.plain(recipe), given_run.to_dict(), args.job)


def on_slurm(args: argparse.Namespace) -> None:
    """All jobs, on a cluster."""
    if not args.host:
        from nemo_run.config import set_nemorun_home

        set_nemorun_home(args.job_dir)  # sbatch gets the files where NeMo-Run writes them: nobody copies them
    executors = partial(slurm_executor, args=args)
    if args.rehearse:
        return rehearse(args, executors)
    return experiment(args, executors, repeat=args.jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    words = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    way = next((way for way in ("local", "slurm", "job") if f"--{way}" in words), None)
    parser = get_parser(way)
    args = parser.parse_args(argv)
    if way == "slurm" and args.host and not args.user:
        parser.error("--host needs --user")
    with exit_in_one_line():
        if getattr(args, "config", None):
            ElasticConfig.load(args.config)  # a mistake in it needs no host to be told
        if way == "job":
            return run_job(args)
        if way == "slurm":
            return on_slurm(args)
        from nemo_elastic.hosts.common.experiment import local_executor

        args.dir = str(Path(args.dir).resolve())
        return experiment(args, local_executor)


if __name__ == "__main__":
    main()
