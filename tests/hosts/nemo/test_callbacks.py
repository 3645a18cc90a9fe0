# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What NeMo moves away when a run starts again, and which micro-batches a validation runs; test_training trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_elastic.history import METRICS
from nemo_elastic.io.write import atomic_write

pytestmark = pytest.mark.nemo


def test_nemo_moves_neither_the_metrics_nor_what_a_killed_writer_left_beside_them(tmp_path: Path, monkeypatch) -> None:
    from nemo.lightning.nemo_logger import NeMoLogger
    from nemo.utils.app_state import AppState

    from nemo_elastic.hosts.nemo.callbacks import MetricsWriter

    state = AppState()
    for name in ("log_dir", "files_to_move", "files_to_copy"):
        monkeypatch.setattr(state, f"_{name}", None, raising=False)
    left = f".{METRICS}.0ad7f80b"
    for name in (METRICS, "nemo_log.txt", f"{left}.lock", f"{left}.tmp"):
        (tmp_path / name).write_text("")
    NeMoLogger(log_dir=str(tmp_path))._setup_files_to_move(tmp_path, state)
    assert len(state.files_to_move) == 4
    writer = MetricsWriter(str(tmp_path / METRICS))
    writer.setup(SimpleNamespace(), SimpleNamespace(), "fit")
    assert state.files_to_move == [tmp_path / "nemo_log.txt"]
    atomic_write(tmp_path / METRICS, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == [METRICS, "nemo_log.txt"]


def test_a_context_with_the_writer_of_a_recipe_loads(tmp_path: Path) -> None:
    from nemo import lightning as nl
    from nemo.lightning import io

    from nemo_elastic.hosts.nemo.callbacks import MetricsWriter

    nl.Trainer(accelerator="cpu", callbacks=[MetricsWriter(label="train")]).io_dump(tmp_path, yaml_attrs=[])
    loaded = io.load(tmp_path, output_type=nl.Trainer)
    assert [c.label for c in loaded.callbacks if isinstance(c, MetricsWriter)] == ["train"]


def test_a_validation_runs_every_member_on_all_data_that_the_limit_allows() -> None:
    """NeMo's own takes as many micro-batches as a training step, and finds too few; of fine-tuning a global batch."""
    from nemo_elastic.hosts.nemo.callbacks import every_member

    step: Any = SimpleNamespace(has_global_batch_sampler=False, data=SimpleNamespace(length=8, fetched=2))
    step.num_microbatches = 48
    every_member(step, 3)
    assert step.num_microbatches == 18
    step = SimpleNamespace(has_global_batch_sampler=True, num_microbatches=2, seq_length=64)
    step.get_data_iterator_and_seq_length = lambda: ([iter("ab")], 32)
    every_member(step, 3)
    assert (step.num_microbatches, step.seq_length, step.has_global_batch_sampler) == (6, 32, False)
    assert list(step.data[0]) == ["a", "b"]
