# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is written down inside a rehearsal's job: each start in a folder of its own, and the one that is cut short."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.nemo


class Trainer:
    """As much of Lightning's as a start and an end ask for."""

    def __init__(self, step: int = 0, ckpt_path: Path | None = None, rank: int = 0) -> None:
        self.global_step, self.ckpt_path, self.is_global_zero = step, ckpt_path, rank == 0
        self.strategy = SimpleNamespace(barrier=lambda: None)

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        path.mkdir(parents=True)
        (path / "weights_only").write_text(str(weights_only))


class Killed(Exception):
    """In place of the end of the process."""


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from nemo_elastic.rehearsal.nemo.watch import Watch

    def die(code: int) -> None:
        raise Killed(code)

    monkeypatch.setattr(os, "_exit", die)
    return lambda **options: Watch(str(tmp_path / "watched"), **options)


def facts(folder: Path, start: int) -> dict[str, Any]:
    return json.loads((folder / "watched" / str(start) / "facts.json").read_text())


def test_every_start_has_a_folder_of_its_own(watch: Any, tmp_path: Path) -> None:
    for step in (0, 7):
        watch().on_train_start(Trainer(step), SimpleNamespace(stage=1))
    assert [facts(tmp_path, start) for start in (0, 1)] == [{"step": step, "killed": False} for step in (0, 7)]
    assert (tmp_path / "watched" / "1" / "start").is_dir()


@pytest.mark.parametrize(
    ("stage", "goes_on", "weights_only"), [(1, False, "True"), (2, False, "False"), (1, True, "False")]
)
def test_only_a_new_optimizer_is_not_saved(
    watch: Any, tmp_path: Path, stage: int, goes_on: bool, weights_only: str
) -> None:
    checkpoint = tmp_path / "last"
    (checkpoint / "weights").mkdir(parents=True)
    (checkpoint / "weights" / "metadata.json").write_text("{}")
    watch().on_train_start(Trainer(3, checkpoint if goes_on else None), SimpleNamespace(stage=stage))
    start = tmp_path / "watched" / "0"
    assert (start / "start" / "weights_only").read_text() == weights_only
    assert (start / "from").is_dir() == goes_on


def test_the_checkpoint_that_it_goes_on_from_is_kept_when_that_is_gone(watch: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "last"
    (checkpoint / "weights").mkdir(parents=True)
    (checkpoint / "weights" / "metadata.json").write_text("{}")
    watch().on_train_start(Trainer(3, checkpoint), SimpleNamespace(stage=1))
    (checkpoint / "weights" / "metadata.json").unlink()
    (kept,) = (tmp_path / "watched" / "0" / "from").rglob("metadata.json")
    assert kept.read_text() == "{}"


def test_the_first_start_is_cut_short_after_its_step_and_says_how_far_it_came(watch: Any, tmp_path: Path) -> None:
    one, trainer = watch(stop_after=3), Trainer()
    one.on_train_start(trainer, SimpleNamespace(stage=1))
    for trainer.global_step in (1, 2):
        one.on_train_batch_end(trainer, None)
    trainer.global_step = 3
    with pytest.raises(Killed) as ended:
        one.on_train_batch_end(trainer, None)
    assert ended.value.args == (0,) and facts(tmp_path, 0) == {"step": 0, "killed": True, "reached": 3}


@pytest.mark.parametrize(("begun", "stop_after"), [(2, 3), (0, None)])
def test_a_start_that_goes_on_and_one_without_a_limit_run_to_their_end(
    watch: Any, tmp_path: Path, begun: int, stop_after: int | None
) -> None:
    one, trainer = watch(stop_after=stop_after), Trainer(begun)
    one.on_train_start(trainer, SimpleNamespace(stage=1))
    trainer.global_step = 3
    one.on_train_batch_end(trainer, None)
    one.on_train_end(trainer, object())
    assert facts(tmp_path, 0) == {"step": begun, "killed": False, "reached": 3}


def test_other_ranks_write_no_facts(watch: Any, tmp_path: Path) -> None:
    one, trainer = watch(), Trainer(rank=1)
    one.on_train_start(trainer, SimpleNamespace(stage=1))
    one.on_train_end(trainer, object())
    assert list((tmp_path / "watched").rglob("facts.json")) == []
