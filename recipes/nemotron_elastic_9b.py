# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron Nano V2 9B → 9B, 6.5B and 4.5B, nested.

Rank → stage 1 (8192 tokens) → stage 2 (49152) → slice. Budgets, axes, shapes and loss are in conf/elastic_9b.yaml;
lengths, batches, steps and rates are those of the 12B family, `curriculum.PAPER`; bf16.

The paper has no such family: nobody has tried these rates and budgets on this parent. The layout is what
`nemo-elastic plan` calls best: of those that fit and are within 1.5 % of the fastest, the one that takes the least
memory. On the 128 H100s of the defaults:

    stage 1: TP2 PP1 DP64 SP
    stage 2: TP4 CP2 PP1 DP16 SP

Activations are two thirds of the 12B's: at 8192 tokens they fit at TP2, and at 49152 at TP4 where two ranks share each
sequence (CP), without being computed again. Both leave little free: for a larger micro-batch look at
`nemo-elastic plan` first. No pipeline stages, which are slower by the same estimate. The ranking takes one node: every
GPU holds the parent, 17.8 GB, without gradients, optimizer or teacher.

    $ python recipes/run_slurm.py --recipe nemotron_elastic_9b --parent /checkpoints/9b --dir /runs/9b \
        --data 0.7 /data/code 0.3 /data/web --nodes 16 --host login.example.com --user me --job-dir /home/me/jobs \
        --account research --partition batch --image /images/nemo-elastic-25.11.sqsh --mount /checkpoints /runs /data

    >>> from nemotron_elastic_9b import stage1_recipe
    >>> recipe = stage1_recipe("/checkpoints/9b", [0.7, "/data/code", 0.3, "/data/web"], "/runs/9b")
    >>> recipe.trainer.val_check_interval = 100
"""

from __future__ import annotations

from pathlib import Path

from nemo.collections import llm

from nemo_elastic import FamilyRecipe

FAMILY = FamilyRecipe(
    name="nemotron_elastic_9b",
    stock=llm.nemotron_nano_9b_v2.pretrain_recipe,
    shape="nemotron-nano-9b-v2",
    block=Path(__file__).resolve().parents[1] / "conf" / "elastic_9b.yaml",
)
rank_recipe = FAMILY.rank_recipe
stage1_recipe = FAMILY.stage1_recipe
stage2_recipe = FAMILY.stage2_recipe
slice_step = FAMILY.slice_step
family_experiment = FAMILY.family_experiment
