# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members that a search found train from the first step, and those of a checkpoint by halving from the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from tests.shapes import PARENT
from tests.train.torch_host import TorchHost
from tests.train.trained import Trained, random_rows

BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.6}, {"name": "small", "ratio": 0.45}],
    "axes": {"hidden": [16, 14, 12, 10], "ffn": [16, 12, 8, 4], "mamba_heads": [6, 4, 2], "depth": [5, 4, 3]},
    "importance": {"samples": 8, "depth_samples": 2},
    "search": {"candidates": 64, "tokens": 64},
}


def stage(out: Path, **more: Any) -> Trained:
    config = ElasticConfig.from_dict(BLOCK | more)
    return Trained(config, config.parent_shape(PARENT), out, random_rows(PARENT.vocab, 4, 16), steps=4)


def test_the_best_chain_is_frozen_before_the_first_step(tmp_path: Path) -> None:
    run = stage(tmp_path).prepare()
    members = run.family.members
    assert members.is_frozen and not (tmp_path / "members.json").exists()
    found = json.loads((tmp_path / "shapes.json").read_text())
    assert found["report"]["source"] == "search"
    assert list(found["members"].values()) == [m.to_json() for m in members.get()]
    run.go()
    assert set(run.choices) <= {None, *members.get()[1:]}


def test_members_of_a_checkpoint_among_candidates_are_frozen_as_they_are(tmp_path: Path) -> None:
    """Halving left its best ones so far in the members, not frozen."""
    first = stage(tmp_path / "first").prepare()
    first.family.members.put(first.family.members.get(), frozen=False)
    run = stage(tmp_path / "second")
    run.family.members.load_state_dict(first.family.members.state_dict())
    run.host.step = 2
    run.go()
    assert run.family.members.is_frozen and run.family.members.get() == first.family.members.get()
    written = json.loads((tmp_path / "second" / "members.json").read_text())
    assert written["report"] == {"source": "search", "step": 2}
    assert list(written["members"].values()) == [m.to_json() for m in run.family.members.get()]


def test_data_of_which_nothing_counts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def masked(self: TorchHost, count: int, size: int) -> Iterator[Rows]:
        rows = self.data[:count]
        return iter(Rows(rows, torch.zeros(rows.shape)).split(size))

    stage(tmp_path / "ranked", shapes="even").prepare()
    monkeypatch.setattr(TorchHost, "sequences", masked)
    with pytest.raises(ElasticError, match="data: '8 sequences' "):
        stage(tmp_path / "masked", ranking=str(tmp_path / "ranked" / "ranking")).prepare()
