# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron-H 8B → 8B, 6B and 4B, nested.

Rank → stage 1 (8192 tokens) → stage 2 (49152) → slice. Budgets, axes, shapes and loss are in conf/elastic_8b.yaml;
lengths, batches, steps and rates are those of the 12B family, `curriculum.PAPER`; bf16.

Minitron-SSM (arXiv 2504.11409) cut the same parent to 4B; the curriculum's paper has no such family, and nobody has
tried these rates and budgets on this parent. It was trained at 8192 tokens: stage 2 is longer than anything it has
seen. The layout is what `nemo-elastic plan` calls best: of those that fit and are within 1.5 % of the fastest, the
one that takes the least memory. On the 128 H100s of the defaults:

    stage 1: TP2 PP1 DP64 SP
    stage 2: TP4 CP2 PP1 DP16 SP

Activations fit at TP2, and at 49152 tokens at TP4 where two ranks share each sequence (CP), without being computed
again. No pipeline stages, which are slower by the same estimate. The ranking takes one node: every GPU holds the
parent, 16.2 GB, without gradients, optimizer or teacher.

    $ python recipes/run_slurm.py --recipe nemotron_elastic_8b --parent /checkpoints/8b --dir /runs/8b \
        --data 0.7 /data/code 0.3 /data/web --nodes 16 --host login.example.com --user me --job-dir /home/me/jobs \
        --account research --partition batch --image /images/nemo-elastic-25.11.sqsh --mount /checkpoints /runs /data

    >>> from nemotron_elastic_8b import stage1_recipe
    >>> recipe = stage1_recipe("/checkpoints/8b", [0.7, "/data/code", 0.3, "/data/web"], "/runs/8b")
    >>> recipe.trainer.val_check_interval = 100
"""

from __future__ import annotations

from pathlib import Path

from nemo.collections import llm

from nemo_elastic import FamilyRecipe

FAMILY = FamilyRecipe(
    name="nemotron_elastic_8b",
    stock=llm.nemotronh_8b.pretrain_recipe,
    shape="nemotron-h-8b",
    block=Path(__file__).resolve().parents[1] / "conf" / "elastic_8b.yaml",
)
rank_recipe = FAMILY.rank_recipe
stage1_recipe = FAMILY.stage1_recipe
stage2_recipe = FAMILY.stage2_recipe
slice_step = FAMILY.slice_step
family_experiment = FAMILY.family_experiment
