# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
r"""Nemotron Nano V2 12B → 12B, 9B and 6B, nested: the family of Nemotron Elastic (arXiv 2511.16664).

Rank → stage 1 (8192 tokens) → stage 2 (49152) → slice. Budgets, axes, shapes and loss are in conf/elastic_12b.yaml;
lengths, batches, steps and the model's rate are the paper's, `curriculum.PAPER`; bf16. Shapes are found by halving:
candidates of every budget train in turn, and the worse ones go. The paper's router is the block
conf/elastic_12b_paper.yaml: `--config` below, `block=` of the functions here.

The layout is what `nemo-elastic plan` calls best: of those that fit and are within 1.5 % of the fastest, the one
that takes the least memory. On the 128 H100s of the defaults:

    stage 1: TP2 CP4 PP1 DP16
    stage 2: TP2 CP2 PP1 DP32 SP recompute

Weights, gradients and teacher alone are 98 GB on one GPU and 49 GB on two, which leaves too little for the activations
of whole sequences: four ranks share each (CP), in stage 2 two. Those of 49152 tokens are computed again in the
backward pass. TP4 would fit too, with more of the residual stream on its way between GPUs. No pipeline stages, which
are slower by the same estimate. The ranking takes one node: every GPU holds the parent, 24.6 GB, without gradients,
optimizer or teacher.

    $ python recipes/run_slurm.py --recipe nemotron_elastic_12b --parent /checkpoints/12b --dir /runs/12b \
        --data 0.7 /data/code 0.3 /data/web --nodes 16 --host login.example.com --user me --job-dir /home/me/jobs \
        --account research --partition batch --image /images/nemo-elastic-25.11.sqsh --mount /checkpoints /runs /data

    >>> from nemotron_elastic_12b import stage1_recipe
    >>> recipe = stage1_recipe("/checkpoints/12b", [0.7, "/data/code", 0.3, "/data/web"], "/runs/12b")
    >>> recipe.trainer.val_check_interval = 100
"""

from __future__ import annotations

from pathlib import Path

from nemo.collections import llm

from nemo_elastic import FamilyRecipe

FAMILY = FamilyRecipe(
    name="nemotron_elastic_12b",
    stock=llm.nemotron_nano_12b_v2.pretrain_recipe,
    shape="nemotron-nano-12b-v2",
    block=Path(__file__).resolve().parents[1] / "conf" / "elastic_12b.yaml",
)
rank_recipe = FAMILY.rank_recipe
stage1_recipe = FAMILY.stage1_recipe
stage2_recipe = FAMILY.stage2_recipe
slice_step = FAMILY.slice_step
family_experiment = FAMILY.family_experiment
