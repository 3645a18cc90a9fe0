# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron Nano V2 9B → 9B, 6.5B and 4.5B, nested.

The same curriculum as recipes/nemotron_elastic_9b.py, on Megatron-Bridge: lengths, batches, steps and rates are the
paper's, the layout is the planner's, and the block is conf/elastic_9b.yaml. All jobs as one experiment of NeMo-Run:

    $ python recipes/run_slurm.py --recipe bridge/nemotron_elastic_9b --parent /checkpoints/parent --dir /runs/9b …

or one by itself:

    $ torchrun --nproc-per-node 8 … recipes/bridge/nemotron_elastic_9b.py --job stage1 --nodes 16 \
        --parent /checkpoints/parent --dir /runs/9b --data 0.7 /data/code 0.3 /data/web
"""

from __future__ import annotations

from pathlib import Path

from megatron.bridge.recipes.nemotronh.nemotron_nano_v2 import nemotron_nano_9b_v2_pretrain_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily

FAMILY = BridgeFamily(
    name="nemotron_elastic_9b_bridge",
    stock=nemotron_nano_9b_v2_pretrain_config,
    shape="nemotron-nano-9b-v2",
    block=Path(__file__).resolve().parents[2] / "conf" / "elastic_9b.yaml",
)
family_experiment = FAMILY.family_experiment

if __name__ == "__main__":
    from run_bridge import main

    main(FAMILY)
