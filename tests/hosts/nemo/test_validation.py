# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which micro-batches a validation runs, and the second name of the best checkpoint; no training."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.nemo


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"step={step}-last"
    made.mkdir()
    return made


def names(folder: Path) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()}


def test_every_member_runs_on_each_batch_of_data() -> None:
    from nemo_elastic.config.sections import DistillConfig
    from nemo_elastic.train.heldout import HeldOut

    heldout, data = HeldOut(DistillConfig()), iter([{"tokens": 1}, {"tokens": 2}])
    heldout.begin(["full", "small"], [None, None])
    ran = [heldout.next(lambda: next(data)) for _ in range(4)]
    assert [(batch["tokens"], batch["member"]) for batch in ran] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_step_takes_all_data_that_the_limit_allows() -> None:
    """NeMo's own takes as many micro-batches as a training step, and finds too few."""
    from nemo_elastic.hosts.nemo.validation import every_member

    step = SimpleNamespace(has_global_batch_sampler=False, data=SimpleNamespace(length=8, fetched=0))
    step.num_microbatches = 48
    every_member(step, 3)
    assert step.num_microbatches == 24


def test_a_global_batch_of_fine_tuning_is_split_as_in_training() -> None:
    from nemo_elastic.hosts.nemo.validation import every_member

    step: Any = SimpleNamespace(has_global_batch_sampler=True, num_microbatches=2, seq_length=64)
    step.get_data_iterator_and_seq_length = lambda: ([iter("ab")], 32)
    every_member(step, 3)
    assert (step.num_microbatches, step.seq_length, step.has_global_batch_sampler) == (6, 32, False)
    assert list(step.data[0]) == ["a", "b"]


def test_the_best_has_a_second_name_and_no_other(tmp_path: Path) -> None:
    from nemo_elastic.hosts.common.checkpoints import best
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO

    assert best(tmp_path) is None
    assert NEMO.name_best(checkpoint(tmp_path, 4), "val_loss", 2.5)
    assert not NEMO.name_best(checkpoint(tmp_path, 9), "val_loss", 2.50001)
    assert not NEMO.name_best(checkpoint(tmp_path, 14), "val_loss", float("nan"))
    assert names(tmp_path) == {"step=4-val_loss=2.5000": "step=4-last"}
    assert NEMO.name_best(tmp_path / "step=14-last", "val_loss/small", 2.25)
    assert names(tmp_path) == {"step=14-val_loss_small=2.2500": "step=14-last"}
    assert best(tmp_path) == (tmp_path / "step=14-last", 2.25)
    assert NEMO.name_best(tmp_path / "step=4-last", "val_accuracy", 0.9, mode="max") is False
    assert NEMO.name_best(tmp_path / "step=4-last", "val_accuracy", 3.0, mode="max")


def test_a_second_name_of_what_is_gone_goes(tmp_path: Path) -> None:
    from nemo_elastic.hosts.common.checkpoints import best, drop_dangling
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO

    NEMO.name_best(checkpoint(tmp_path, 4), "val_loss", 2.5)
    (tmp_path / "step=4-last").rmdir()
    assert best(tmp_path) is None
    drop_dangling(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_copied_without_links_goes_on(tmp_path: Path) -> None:
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO

    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    NEMO.name_best(checkpoint(one, 4), "val_loss", 2.5)
    shutil.copytree(one, other)
    assert not NEMO.name_best(other / "step=4-last", "val_loss", 2.5)
    assert NEMO.name_best(checkpoint(other, 9), "val_loss", 2.25)
