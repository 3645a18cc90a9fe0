# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A published family goes on by distillation: its members keep their shapes, and are fronts of the new weights."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.core.manifest import Family
from nemo_elastic.hosts.bridge.apply import apply_elastic
from nemo_elastic.hosts.bridge.tiny import TINY_EXPERTS, tiny_config
from nemo_elastic.slicing.family_folder import slice_family
from nemo_elastic.slicing.untrained import join_family
from tests.parallel.runs import write_data
from tests.slicing import strangers as theirs
from tests.slicing.helpers import printed
from tests.workers import free_port, work

#: the sizes of `strangers.MOE`, as Bridge's provider has them
SIZES: dict[str, Any] = TINY_EXPERTS | {
    "hybrid_layer_pattern": "ME*EM", "hidden_size": 64, "mamba_num_groups": 4, "mamba_state_dim": 8,
    "num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 16, "num_moe_experts": 4,
    "moe_ffn_hidden_size": 48, "moe_shared_expert_intermediate_size": 64,
}  # fmt: skip
SMALL = {"hidden_size": 48, "n_routed_experts": 3, "moe_intermediate_size": 32}
STEPS = 2


def train(place: Path) -> None:
    """Both stages in one process, and the family again."""
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
        more = {"previous": str(place / "stage1" / "checkpoints")} if stage == 2 else {}
        teacher = str(place / "teacher")
        apply_elastic(config, block, teacher=teacher, stage=stage, total_steps=2 * STEPS, **more).pretrain()
    slice_family(str(place / "stage2" / "checkpoints"), str(place))


@pytest.mark.slow(minutes=2)
def test_both_stages_train_the_published_members(tmp_path: Path) -> None:
    work("tests.support.bridge", "-m", "tests.hosts.bridge.test_published", tmp_path)
    before, after = (Family.load(tmp_path / name) for name in ("parent", "family"))
    assert after.parent == before.parent
    assert {m.name: m.subnet for m in after} == {m.name: m.subnet for m in before}
    whole = json.loads((tmp_path / "parent" / "config.json").read_text())
    trained = theirs.words_of(tmp_path / "family")
    assert theirs.same(theirs.cut(trained, whole, whole | SMALL), theirs.words_of(tmp_path / "members" / "small"))
    assert not theirs.same(trained, theirs.words_of(tmp_path / "parent"))
    for stage in (1, 2):
        lines = (tmp_path / f"stage{stage}" / "checkpoints" / "metrics.jsonl").read_text().splitlines()
        assert [x["step"] for x in map(json.loads, lines) if x["kind"] == "step"] == [*range(1, STEPS + 1)]


if __name__ == "__main__":
    train(Path(sys.argv[1]))
