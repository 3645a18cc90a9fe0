# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny family, on a CPU: its parent's own training and every job of the large recipes, in some minutes.

    $ python recipes/tiny.py --dir runs/tiny
    $ python recipes/tiny.py --recipe bridge/nemotron_elastic_tiny --dir runs/bridge
    $ python recipes/tiny.py --recipe bridge/nemotron_elastic_tiny_experts --dir runs/experts

On NeMo a Nemotron-H of 1.6M parameters → 1.1M and 0.8M, by two processes of torchrun on two cores. The ranking runs at
data-parallel size 2, both stages at tensor-parallel size 2 with sequence parallelism, the second with activation
recomputation: the way of the large recipes, where the parent is ranked whole and trained in pieces. On Megatron-Bridge
the same family, and a hybrid with experts (1.8M parameters, of which a token meets 1.2M), each in one process. Without
TransformerEngine, which a CPU cannot have, Bridge cannot be imported; `python -m tests.support.bridge` before the
script's name puts something in its place.

Tokens and parent are made first where none are given.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nemo_elastic.errors import exit_in_one_line
from nemo_elastic.hosts.common.tiny import TINY, tiny_data

CONF = Path(__file__).resolve().parents[1] / "conf"
NEMO, BRIDGE, EXPERTS = (
    "nemotron_elastic_tiny", "bridge/nemotron_elastic_tiny", "bridge/nemotron_elastic_tiny_experts",
)  # fmt: skip
RANKS = 2


def on_nemo(dir: str, data: str | None, parent: str | None, dryrun: str | None) -> None:
    """All jobs as one experiment of NeMo-Run's."""
    from nemo_elastic.hosts.common.experiment import local_executor
    from nemo_elastic.hosts.nemo.tiny.family import TinyFamily
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    family = TinyFamily(NEMO, TinyNemotronH, "nemotron-h-tiny", CONF / "elastic_tiny.yaml")
    family.family_experiment(
        parent or family.own_parent(dir), [tiny_data(dir, data)], dir, local_executor,
        curriculum=TINY, num_nodes=1, num_gpus_per_node=RANKS, dryrun=dryrun,
    )  # fmt: skip


def on_bridge(dir: str, data: str | None, experts: bool, scale: float) -> None:
    """All jobs in this process."""
    from nemo_elastic.hosts.bridge import tiny

    block, sizes = ("elastic_tiny_experts", tiny.TINY_EXPERTS) if experts else ("elastic_tiny", tiny.TINY)
    tiny.train_tiny(dir, CONF / f"{block}.yaml", sizes=sizes, data=data, scale=scale)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", choices=(NEMO, BRIDGE, EXPERTS), default=NEMO)
    parser.add_argument("--dir", help="folder for everything, runs/RECIPE by default")
    parser.add_argument("--data", help="folder made by nemo-elastic data")
    parser.add_argument("--parent", help="NeMo checkpoint of a parent, of the family on NeMo")
    parser.add_argument("--dryrun", metavar="DIR", help="on NeMo: write what would be run, print a table")
    parser.add_argument("--scale", type=float, default=1.0, help="on Megatron-Bridge: of the steps, to see it run")
    args = parser.parse_args(argv)
    for name in ("parent", "dryrun") if args.recipe != NEMO else ("scale",):
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} is no option of {args.recipe}")
    dir = str(Path(args.dir or f"runs/{args.recipe}").resolve())
    with exit_in_one_line():
        if args.recipe == NEMO:
            return on_nemo(dir, args.data, args.parent, args.dryrun)
        return on_bridge(dir, args.data, args.recipe == EXPERTS, args.scale)


if __name__ == "__main__":
    main()
