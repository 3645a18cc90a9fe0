# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of the large recipes on Megatron-Bridge."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.errors import exit_in_one_line
from nemo_elastic.hosts.bridge.curriculum import JOBS, BridgeFamily, slice_job, train_to_the_end


def main(family: BridgeFamily, argv: Sequence[str] | None = None) -> None:
    """One job of a curriculum, on every rank of it."""
    parser = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--job", choices=JOBS, required=True, help="what is done")
    parser.add_argument("--dir", required=True, help="folder for everything, that all nodes see")
    parser.add_argument("--parent", help="checkpoint of the parent, NeMo's or Megatron-Bridge's")
    parser.add_argument("--data", nargs="+", default=[], help="token files, or weights and them, or one chat folder")
    parser.add_argument("--long-data", nargs="+", help="those of the stages after the first, if others")
    parser.add_argument("--nodes", type=int, default=16, help="nodes of the stages; the ranking takes one")
    parser.add_argument("--devices", type=int, default=8, help="GPUs per node")
    parser.add_argument("--gpu", default="h100", help="their kind")
    parser.add_argument("--tokenizer", help="of the parent, a folder or a hub name")
    parser.add_argument(
        "--quantize", choices=SCHEMES, help="with a stage 3 in this precision; the same for all jobs of a run"
    )
    args = parser.parse_args(argv)
    with exit_in_one_line():
        if args.job == "slice":
            return slice_job(args.dir, 3 if args.quantize else 2)
        given = {"num_nodes": args.nodes, "num_gpus_per_node": args.devices, "gpu": args.gpu}
        given |= {"tokenizer": args.tokenizer, "long_data": args.long_data, "quantize": args.quantize}
        return train_to_the_end(family.job(args.job, args.parent, args.data, args.dir, **given))
