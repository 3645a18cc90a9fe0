# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The large families, a row each. To add one, write a row; `run.py` runs it by its name.

Every family has the curriculum of the paper (arXiv 2511.16664), in bf16: rank → stage 1 (8192 tokens) → stage 2
(49152) → slice. The paper has the 12B alone; nobody has tried its rates on the other parents. Budgets, axes, shapes
and loss are in the block. Layouts are the planner's for the machines of a run; docs/large_runs.md has those on
128 H100s.

    >>> from families import family
    >>> recipe = family("nemotron_elastic_9b").job("stage1", "/checkpoints/9b", ["/data/text"], "/runs/9b")
    >>> recipe.trainer.val_check_interval = 100
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_elastic.hosts.common.recipe_file import Row

CONF = Path(__file__).resolve().parents[1] / "conf"
B12, B9, B8 = CONF / "elastic_12b.yaml", CONF / "elastic_9b.yaml", CONF / "elastic_8b.yaml"
B30 = CONF / "elastic_30b_a3b.yaml"
LLM, DENSE = "nemo.collections.llm", "nemo_elastic.hosts.bridge.parents"  # Bridge's own while it has them
H100 = "megatron.bridge.recipes.nemotronh.h100"
NANO_4B = f"{H100}.nemotron_3_nano_4b:nemotron_3_nano_4b_pretrain_8gpu_h100_bf16_config"
NANO_30B = f"{H100}.nemotron_3_nano:nemotron_3_nano_pretrain_8gpu_h100_bf16_config"

#: name -> host, its recipe of the parent, the parent's shape, the elastic block
FAMILIES = {
    # Members keep every layer and head, as those of NVIDIA's nested family do; NeMo 2.7 has no experts in hybrids.
    "bridge/nemotron_elastic_30b_a3b": Row("bridge", NANO_30B, "nemotron-3-nano-30b-a3b", B30),
    "bridge/nemotron_elastic_30b_a3b_sft": Row("bridge", NANO_30B, "nemotron-3-nano-30b-a3b", B30, chat=True),
    # Weights, gradients and teacher are 98 GB on one GPU and 49 GB on two, which leaves too little for the activations
    # of whole sequences: ranks share each (CP). The ranking takes one node, whose GPUs hold the parent: 24.6 GB.
    "nemotron_elastic_12b": Row("nemo", f"{LLM}:nemotron_nano_12b_v2.pretrain_recipe", "nemotron-nano-12b-v2", B12),
    # Activations are two thirds of the 12B's. The layouts leave little free: look at `nemo-elastic plan` before
    # you take a larger micro-batch.
    "nemotron_elastic_9b": Row("nemo", f"{LLM}:nemotron_nano_9b_v2.pretrain_recipe", "nemotron-nano-9b-v2", B9),
    # Minitron-SSM (arXiv 2504.11409) cut this parent to 4B. It was trained at 8192 tokens: stage 2 is longer than
    # anything that it has seen.
    "nemotron_elastic_8b": Row("nemo", f"{LLM}:nemotronh_8b.pretrain_recipe", "nemotron-h-8b", B8),
    "nemotron_elastic_12b_sft": Row(
        "nemo", f"{LLM}:nemotron_nano_12b_v2.pretrain_recipe", "nemotron-nano-12b-v2", B12, chat=True
    ),
    "bridge/nemotron_elastic_12b": Row(
        "bridge", f"{DENSE}:nemotron_nano_12b_v2_pretrain_config", "nemotron-nano-12b-v2", B12
    ),
    "bridge/nemotron_elastic_9b": Row(
        "bridge", f"{DENSE}:nemotron_nano_9b_v2_pretrain_config", "nemotron-nano-9b-v2", B9
    ),
    "bridge/nemotron_elastic_8b": Row("bridge", f"{DENSE}:nemotronh_8b_pretrain_config", "nemotron-h-8b", B8),
    "bridge/nemotron_elastic_4b_sft": Row(
        "bridge", NANO_4B, "nemotron-3-nano-4b", CONF / "elastic_4b.yaml", chat=True
    ),
}


def family(name: str) -> Any:
    """A family of the table, on its host, which is imported now."""
    return FAMILIES[name].family(name)
