# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A teacher that is the folder of its training: the newest whole checkpoint, on both hosts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.hosts.common.checkpoints import newest_of, write_list
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A checkpoint of NeMo's."""
    folder = store(tmp_path / "one", PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({"a": 1}, folder / "weights" / "common.pt")
    return folder


def nemo_run(one: Path, run: Path) -> list[Path]:
    left = [Path(shutil.copytree(one, run / "checkpoints" / f"step={step}-last")) for step in (9, 19)]
    for step, checkpoint in enumerate(left):
        write_list(checkpoint, step)
    return left


def bridge_run(one: Path, run: Path) -> list[Path]:
    left = [Path(shutil.copytree(one / "weights", run / "checkpoints" / f"iter_000000{step}")) for step in (1, 2)]
    for checkpoint in left:
        (checkpoint / "run_config.yaml").write_text("model: {}\n")
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    return left


@pytest.mark.parametrize("trained", [nemo_run, bridge_run])
def test_the_folder_of_a_training_is_its_newest_whole_checkpoint(one: Path, tmp_path: Path, trained, capsys) -> None:
    run = tmp_path / "run"
    older, newest = trained(one, run)
    for named in (run, run / "checkpoints", newest):
        assert newest_of(named) == str(newest)
    assert newest_of(older) == str(older) and capsys.readouterr().out == ""
    os.truncate(next(newest.rglob("*.distcp")), 100)
    assert newest_of(run) == newest_of(run / "checkpoints", "previous") == str(older)
    for line, name in zip(capsys.readouterr().out.splitlines(), ("teacher", "previous"), strict=True):
        assert line.startswith(f"{name}: {run / 'checkpoints'}: {newest.name} is passed over: ")
    assert Stored(str(newest_of(run))).sizes == Stored(one).sizes
    os.truncate(next(older.rglob("*.distcp")), 100)
    with pytest.raises(ElasticError, match="no other is whole"):
        newest_of(run)


def test_what_is_no_training_stays_as_it_was_given(one: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert newest_of(None) is None
    assert newest_of("/cluster/12b") == "/cluster/12b"
    assert newest_of("one") == str(one) and newest_of("empty") == str(tmp_path / "empty")
