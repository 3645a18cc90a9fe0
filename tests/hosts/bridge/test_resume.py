# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a run on Megatron-Bridge starts from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.checkpoints import BRIDGE
from tests.workers import ROOT


def test_a_stage_that_is_given_the_folder_of_a_training_names_its_checkpoints(tmp_path: Path) -> None:
    from nemo_elastic.hosts.bridge.resume import check_start

    checkpoints = tmp_path / "stage1" / "checkpoints"
    (checkpoints / "iter_0000002").mkdir(parents=True)
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
    nothing = SimpleNamespace(load=None, save=None, pretrained_checkpoint=None, ckpt_step=None)
    block = ElasticConfig.load(ROOT / "conf" / "elastic_tiny.yaml")
    with pytest.raises(ElasticError, match=f"^previous: .*, such as {checkpoints}$"):
        check_start(nothing, block, 2, str(checkpoints.parent), True)


def test_a_checkpoint_that_bridge_would_not_find_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's weights are not read where Bridge is going to load a checkpoint: it has to."""
    from nemo_elastic.hosts.bridge.resume import check_start

    monkeypatch.setattr(BRIDGE, "choose", lambda folder: (folder / "iter_0000002", []))
    own = SimpleNamespace(load=str(tmp_path), save=None, pretrained_checkpoint=None, ckpt_step=None)
    with pytest.raises(ElasticError, match=r"^checkpoint\.load: .* load iter_0000002$"):
        check_start(own, ElasticConfig.load(ROOT / "conf" / "elastic_tiny.yaml"), 1, None, True)
