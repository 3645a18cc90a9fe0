# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron-H 8B → 8B, 6B and 4B, nested.

The same curriculum as recipes/nemotron_elastic_8b.py, on Megatron-Bridge: lengths, batches, steps and rates are the
paper's, the layout is the planner's, and the block is conf/elastic_8b.yaml. All jobs as one experiment of NeMo-Run:

    $ python recipes/run_slurm.py --recipe bridge/nemotron_elastic_8b --parent /checkpoints/parent --dir /runs/8b …

or one by itself:

    $ torchrun --nproc-per-node 8 … recipes/bridge/nemotron_elastic_8b.py --job stage1 --nodes 16 \
        --parent /checkpoints/parent --dir /runs/8b --data 0.7 /data/code 0.3 /data/web
"""

from __future__ import annotations

from pathlib import Path

from megatron.bridge.recipes.nemotronh import nemotronh_8b_pretrain_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily

FAMILY = BridgeFamily(
    name="nemotron_elastic_8b_bridge",
    stock=nemotronh_8b_pretrain_config,
    shape="nemotron-h-8b",
    block=Path(__file__).resolve().parents[2] / "conf" / "elastic_8b.yaml",
)
family_experiment = FAMILY.family_experiment

if __name__ == "__main__":
    from run_bridge import main

    main(FAMILY)
