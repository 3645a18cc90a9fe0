# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A published family goes on by distillation on Megatron-Bridge, in one process: both stages, and the family again.

python -m tests.hosts.bridge.published PLACE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nemo_elastic.hosts.bridge.apply import apply_elastic
from nemo_elastic.hosts.bridge.curriculum import checkpoints
from nemo_elastic.hosts.bridge.tiny import TINY_EXPERTS, tiny_config
from nemo_elastic.slicing.family_folder import slice_family
from nemo_elastic.slicing.untrained import join_family
from tests.parallel.runs import write_data
from tests.slicing import strangers as theirs
from tests.slicing.helpers import printed
from tests.workers import free_port

#: the sizes of `strangers.MOE`, as Bridge's provider has them
SIZES: dict[str, Any] = TINY_EXPERTS | {
    "hybrid_layer_pattern": "ME*EM", "hidden_size": 64, "mamba_num_groups": 4, "mamba_state_dim": 8,
    "num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 16, "num_moe_experts": 4,
    "moe_ffn_hidden_size": 48, "moe_shared_expert_intermediate_size": 64,
}  # fmt: skip
SMALL = {"hidden_size": 48, "n_routed_experts": 3, "moe_intermediate_size": 32}
STEPS = 2


def main(place: Path) -> None:
    os.environ["MASTER_PORT"] = str(free_port())
    write_data(place)
    vocab = tiny_config(place / "data", place, steps=STEPS, sizes=SIZES).model.vocab_size
    whole = theirs.MOE | {"vocab_size": vocab}
    words, child = theirs.words(whole), whole | SMALL
    parent = theirs.write(place / "parent", whole, words)
    join_family(parent, {"small": theirs.write(place / "small", child, theirs.cut(words, whole, child))}, check=True)
    printed("convert", parent, "--format", "megatron", "--out", place / "teacher")
    block = {
        "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.9}],
        "axes": {"hidden": [64, 48], "experts": [4, 3], "expert_ffn": [48, 32]},
        "shapes": str(parent / "elastic.json"),
    }
    for stage in (1, 2):
        config = tiny_config(
            place / "data", place / f"stage{stage}", steps=STEPS, seq_length=64, micro_batch_size=2,
            global_batch_size=4, warmup_steps=1, eval_iters=1, sizes=SIZES,
        )  # fmt: skip
        more = {"previous": checkpoints(str(place), "stage1"), "done_steps": STEPS} if stage == 2 else {}
        teacher = str(place / "teacher")
        apply_elastic(config, block, teacher=teacher, stage=stage, total_steps=2 * STEPS, **more).pretrain()
    slice_family(checkpoints(str(place), "stage2"), str(place))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
