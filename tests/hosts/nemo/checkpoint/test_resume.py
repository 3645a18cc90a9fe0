# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a start compares with the checkpoint that it starts from: `checkpoint.resume`."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors

pytestmark = pytest.mark.nemo
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}],
    "axes": {"hidden": [PARENT.hidden, PARENT.hidden // 2]},
}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a ranking leaves: it takes no loss, so its block has no teacher."""
    block = ElasticConfig.from_dict(BLOCK | {"distill": {"teacher": "none"}}).to_dict()
    folder = tmp_path_factory.mktemp("rank") / "ranked"
    extra = {"module.elastic.ranking": torch.zeros(32, dtype=torch.uint8)}
    store(folder, PARENT, PARENT.full, random_tensors(PARENT), elastic=block, extra=extra)
    torch.save({}, folder / "weights" / "common.pt")
    return folder


def start(checkpoint: Path, block: Any, stage: int, own: Path | None = None) -> Any:
    """Set up a start from a checkpoint, of a run with checkpoints of its own; what the strategy will restore."""
    from nemo import lightning as nl

    from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticResume

    trainer = SimpleNamespace(strategy=SimpleNamespace(), ckpt_path=None, checkpoint_callback=SimpleNamespace())
    config, family = ElasticConfig.from_dict(block), SimpleNamespace(steps=4)
    model = SimpleNamespace(elastic_config=config, stage=stage, family=family)
    restore = nl.RestoreConfig(path=str(checkpoint), load_optim_state=False)
    resume = ElasticResume(resume_if_exists=True, resume_ignore_no_checkpoint=True, restore_config=restore)
    resume.resume_from_directory = str(own or checkpoint.parent / "none")
    resume.setup(trainer, model)
    return trainer.strategy.restore_config


def test_stage_1_refuses_the_ranking_of_another_block(ranked: Path) -> None:
    with pytest.raises(ElasticError, match=r"^resume: .*ranked belongs to another .*seed: 0 -> 3"):
        start(ranked, BLOCK | {"seed": 3}, stage=1)


def test_stage_1_takes_the_ranking_of_its_own_block(ranked: Path, capsys: Any) -> None:
    """How it trains on may differ: the ranking had no loss and sampled no budget."""
    steered = {"distill": {"temperature": 2.0}, "sampling": {"full": 1, "half": 3}}
    restored = start(ranked, BLOCK | steered, stage=1)
    assert restored.path == str(ranked) and not restored.load_artifacts
    assert "distill.teacher: 'none' -> 'frozen', from now on" in capsys.readouterr().out


def test_a_run_with_another_block_is_not_resumed(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked, tmp_path / "step=3-last")
    axes = {"axes": {"hidden": [PARENT.hidden, PARENT.hidden // 4]}}
    with pytest.raises(ElasticError, match=r"^resume: .*elastic\.axes\.hidden\.choices: \[64, 32\] -> \[64, 16\]"):
        start(ranked, BLOCK | axes, stage=1, own=tmp_path)


def test_a_ranking_is_done_whatever_only_training_depends_on(ranked: Path) -> None:
    from nemo_elastic.hosts.nemo.curriculum.rank import already_ranked

    assert already_ranked(ranked, ElasticConfig.from_dict(BLOCK | {"sampling": {"full": 1, "half": 3}}))
    with pytest.raises(ElasticError, match=r"elastic\.seed: 0 -> 3"):
        already_ranked(ranked, ElasticConfig.from_dict(BLOCK | {"seed": 3}))
    assert not already_ranked(ranked.with_name("other"), ElasticConfig.from_dict(BLOCK))


def test_stage_1_starts_from_a_parent_that_was_not_ranked(ranked: Path, tmp_path: Path) -> None:
    plain = store(tmp_path / "plain", PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({}, plain / "weights" / "common.pt")
    assert start(plain, BLOCK, stage=1).path == str(plain)
    with pytest.raises(ElasticError, match="is not elastic"):
        start(plain, BLOCK, stage=2)


def test_what_is_not_there_is_reported_before_anything_is_read(ranked: Path) -> None:
    with pytest.raises(ElasticError, match=r"^start: .*gone is missing or not whole; its run left no"):
        start(ranked.parent / "gone", BLOCK, stage=2)
