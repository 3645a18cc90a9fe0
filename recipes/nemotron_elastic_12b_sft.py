# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron Nano V2 12B → 12B, 9B and 6B, nested, on packed conversations.

The curriculum, block and layouts are those of nemotron_elastic_12b.py; answers alone count:

    stage 1: TP2 CP4 PP1 DP16
    stage 2: TP2 CP2 PP1 DP32 SP recompute

Each stage reads a folder of its own, in sequences of its length:

    $ nemo-elastic data chats.jsonl --tokenizer parent/ --length 8192 --out /data/chats
    $ nemo-elastic data chats.jsonl --tokenizer parent/ --length 49152 --out /data/long
    $ python recipes/run_slurm.py --recipe nemotron_elastic_12b_sft --parent /checkpoints/12b --dir /runs/12b \
        --data /data/chats --long-data /data/long --nodes 16 --host login.example.com --user me \
        --job-dir /home/me/jobs --account research --partition batch --image /images/nemo-elastic-25.11.sqsh \
        --mount /checkpoints /runs /data

    >>> from nemotron_elastic_12b_sft import stage1_recipe
    >>> recipe = stage1_recipe("/checkpoints/12b", ["/data/chats"], "/runs/12b", long_data=["/data/long"])
    >>> recipe.trainer.val_check_interval = 100
"""

from __future__ import annotations

from pathlib import Path

from nemo.collections import llm

from nemo_elastic import FamilyRecipe

FAMILY = FamilyRecipe(
    name="nemotron_elastic_12b_sft",
    stock=llm.nemotron_nano_12b_v2.pretrain_recipe,
    shape="nemotron-nano-12b-v2",
    block=Path(__file__).resolve().parents[1] / "conf" / "elastic_12b.yaml",
    chat=True,
)
rank_recipe = FAMILY.rank_recipe
stage1_recipe = FAMILY.stage1_recipe
stage2_recipe = FAMILY.stage2_recipe
slice_step = FAMILY.slice_step
family_experiment = FAMILY.family_experiment
