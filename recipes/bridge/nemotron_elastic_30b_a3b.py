# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron-3 Nano 30B-A3B, a hybrid with experts → 31B, 23B and 12B, nested.

Lengths, batches, steps and rates are the paper's, and the block is conf/elastic_30b_a3b.yaml. Nobody has trained it.

Layouts on 128 H100s, as the planner chooses them from what is built: gradients summed in fp32, where Bridge's recipe
sums them in bf16, and a router in fp32 with an auxiliary loss, as Bridge's is. EP is the number of ranks that share a
layer's experts, CP of those that share a sequence:

    stage 1: TP1 CP8 PP1 DP16 EP8
    stage 2: TP2 CP4 PP1 DP16 EP8 SP

The ranking is a job of one node, whose GPUs share the experts and nothing else: 11.7 GB of weights in bf16, of the
75.9 GB that the planner fills of an H100. It has no teacher, and no gradients and optimizer states of matrices. What
the layers take beside the weights is not planned, and nobody has run it.

All jobs as one experiment of NeMo-Run:

    $ python recipes/run_slurm.py --recipe bridge/nemotron_elastic_30b_a3b --parent /checkpoints/parent \
        --dir /runs/30b …

or one by itself:

    $ torchrun --nproc-per-node 8 … recipes/bridge/nemotron_elastic_30b_a3b.py --job stage1 --nodes 16 \
        --parent /checkpoints/parent --dir /runs/30b --data 0.7 /data/code 0.3 /data/web
"""

from __future__ import annotations

from pathlib import Path

from megatron.bridge.recipes.nemotronh.h100.nemotron_3_nano import nemotron_3_nano_pretrain_8gpu_h100_bf16_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily

FAMILY = BridgeFamily(
    name="nemotron_elastic_30b_a3b_bridge",
    stock=nemotron_3_nano_pretrain_8gpu_h100_bf16_config,
    shape="nemotron-3-nano-30b-a3b",
    block=Path(__file__).resolve().parents[2] / "conf" / "elastic_30b_a3b.yaml",
)
family_experiment = FAMILY.family_experiment

if __name__ == "__main__":
    from run_bridge import main

    main(FAMILY)
