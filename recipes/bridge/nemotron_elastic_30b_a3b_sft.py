# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron-3 Nano 30B-A3B, a hybrid with experts → 31B, 23B and 12B, nested, on packed conversations.

The curriculum, block and layouts are those of nemotron_elastic_30b_a3b.py; answers alone count. Each stage reads a
folder of its own, in sequences of its length:

    $ nemo-elastic data chats.jsonl --tokenizer parent/ --length 8192 --packed parquet --out /data/chats
    $ nemo-elastic data chats.jsonl --tokenizer parent/ --length 49152 --packed parquet --out /data/long
    $ python recipes/run_slurm.py --recipe bridge/nemotron_elastic_30b_a3b_sft --parent /checkpoints/parent \
        --dir /runs/30b --data /data/chats --long-data /data/long …
"""

from __future__ import annotations

from pathlib import Path

from megatron.bridge.recipes.nemotronh.h100.nemotron_3_nano import nemotron_3_nano_pretrain_8gpu_h100_bf16_config

from nemo_elastic.hosts.bridge.curriculum import BridgeFamily

FAMILY = BridgeFamily(
    name="nemotron_elastic_30b_a3b_sft_bridge",
    stock=nemotron_3_nano_pretrain_8gpu_h100_bf16_config,
    shape="nemotron-3-nano-30b-a3b",
    block=Path(__file__).resolve().parents[2] / "conf" / "elastic_30b_a3b.yaml",
    chat=True,
)
family_experiment = FAMILY.family_experiment

if __name__ == "__main__":
    from run_bridge import main

    main(FAMILY)
