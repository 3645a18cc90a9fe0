# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Submit a recipe of this folder to Slurm: over SSH, in a container, each job after the one before it.

    python recipes/run_slurm.py --recipe nemotron_elastic_12b --parent /checkpoints/12b --dir /runs/12b \
        --data 0.7 /data/code 0.3 /data/web --nodes 16 --host login.example.com --user me --job-dir /home/me/jobs \
        --account research --partition batch --image /images/nemo-elastic-25.11.sqsh \
        --mount /checkpoints /runs /data

--dryrun DIR connects to nothing: it writes the sbatch files to a folder and prints a table of the jobs. Paths are
those inside the container, that of the image is the cluster's. See docs/clusters.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from run_local import experiment, get_parser

if TYPE_CHECKING:
    import nemo_run as run


VARIABLES = {"TORCH_NCCL_AVOID_RECORD_STREAMS": "1", "NCCL_NVLS_ENABLE": "0"}
#: of the job that cuts the members and streams their weights: 2 GB for a 12B of safetensors; from a NeMo checkpoint it
#: was not measured
CPU_MEMORY = "32G"


def offline(args: argparse.Namespace) -> bool:
    """Whether no job asks a hub: by --offline, or where the tokenizer, all that could come from one, is a folder."""
    return args.offline or (args.tokenizer is not None and os.path.isabs(args.tokenizer))


def slurm_executor(nodes: int, devices: int, *, args: argparse.Namespace) -> run.SlurmExecutor:
    """Slurm with Pyxis, through a tunnel, or from a login node where no host is given.

    A job without GPUs asks for none, shares its node, and may have a partition of its own.
    """
    import nemo_run as run

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
        container_mounts=args.mount,
        # the container has the package; nothing of this checkout is needed there
        packager=run.Packager(),
        env_vars=VARIABLES | ({"TRANSFORMERS_OFFLINE": "1"} if offline(args) else {}),
    )


def slurm_parser() -> argparse.ArgumentParser:
    """Options of run_local.py, and those of Slurm."""
    parser = get_parser(__doc__)
    parser.add_argument("--nodes", type=int, default=16, help="nodes of both stages")
    parser.add_argument("--host", help="login node; without it sbatch is called here")
    parser.add_argument("--user", help="user there")
    parser.add_argument("--identity", help="private key for the login")
    parser.add_argument(
        "--job-dir", required=True, help="folder on the cluster for scripts and logs, an absolute path"
    )
    parser.add_argument("--account", required=True)
    parser.add_argument("--partition", required=True)
    parser.add_argument("--cpu-partition", help="of the job that needs no GPU; that of the others by default")
    parser.add_argument("--time", default="04:00:00", help="limit of a job")
    parser.add_argument("--jobs", type=int, default=1, help="jobs in a row for each stage, where one is too short")
    parser.add_argument(
        "--image",
        required=True,
        help="container with nemo-elastic: a squashfs file on the cluster, or REGISTRY#NAME:TAG, see docs/clusters.md",
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
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = slurm_parser()
    args = parser.parse_args(argv)
    if args.host and not args.user:
        parser.error("--host needs --user")
    if not args.host:
        from nemo_run.config import set_nemorun_home

        set_nemorun_home(args.job_dir)  # sbatch gets the files where NeMo-Run writes them: nobody copies them
    args.mount = [m if ":" in m else f"{m}:{m}" for m in args.mount]
    experiment(args, partial(slurm_executor, args=args), num_nodes=args.nodes, repeat=args.jobs)


if __name__ == "__main__":
    main()
