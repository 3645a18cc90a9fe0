# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron 3 Nano 4B, which has no experts → 4B, 3B and 2B, nested, on packed conversations.

Answers alone count. Lengths, batches, steps and rates are the paper's, and the block is conf/elastic_4b.yaml. Nobody
has trained it. Layouts on 128 H100s, as the planner chooses them:

    stage 1: TP2 PP1 DP64 SP
    stage 2: TP1 CP8 PP1 DP16

Each stage reads a folder of its own, in sequences of its length:

    $ nemo-elastic data chats.jsonl --tokenizer parent/ --length 8192 --packed parquet --out /data/chats
    $ nemo-elastic data chats.jsonl --tokenizer parent/ --length 49152 --packed parquet --out /data/long
    $ python recipes/run_slurm.py --recipe bridge/nemotron_elastic_4b_sft --parent /checkpoints/4b --dir /runs/4b \
        --data /data/chats --long-data /data/long …
"""

from __future__ import annotations

from pathlib import Path

from megatron.bridge.recipes.nemotronh.h100.nemotron_3_nano_4b import nemotron_3_nano_4b_pretrain_8gpu_h100_bf16_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily

FAMILY = BridgeFamily(
    name="nemotron_elastic_4b_sft_bridge",
    stock=nemotron_3_nano_4b_pretrain_8gpu_h100_bf16_config,
    shape="nemotron-3-nano-4b",
    block=Path(__file__).resolve().parents[2] / "conf" / "elastic_4b.yaml",
    chat=True,
)
family_experiment = FAMILY.family_experiment

if __name__ == "__main__":
    from run_bridge import main

    main(FAMILY)
