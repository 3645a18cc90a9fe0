# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of a checkpoint's files, and the checksums that ranks add to them, on both hosts."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from nemo_elastic.hosts.common import sums
from tests.hosts.common.saves import HOSTS, Saves, flip


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"files": []}', '{"files": {"a": "b"}, "step": 1}', '{"files": {}, "step": []}']
)
def test_a_damaged_list_is_damage(original: Path, tmp_path: Path, saves: Saves, content: str) -> None:
    checkpoint = saves.save(original, tmp_path, 3)
    (checkpoint / sums.LIST).write_text(content)
    assert "elastic_files.json" in str(saves.host.problem(checkpoint))


def test_each_rank_has_the_sums_of_what_it_wrote(original: Path, tmp_path: Path, saves: Saves) -> None:
    checkpoint = saves.save(original, tmp_path, 3, listed=False)
    weights = checkpoint / saves.weights
    for name in ("__1_0.distcp", "__2_1.distcp", "__9_0.distcp"):
        (weights / name).write_bytes(name.encode())
    sums.write_list(checkpoint, 4)
    for rank in range(3):
        sums.add_sums(checkpoint, rank, 3)
    parts = [json.loads((checkpoint / sums.SUMS / f"{rank}.json").read_text()) for rank in range(3)]
    assert [list(part) for part in parts[1:]] == [[f"{saves.weights}__1_0.distcp"], [f"{saves.weights}__2_1.distcp"]]
    assert {f"{saves.weights}.metadata", f"{saves.weights}__9_0.distcp"} <= parts[0].keys()
    assert sums.check_sums(checkpoint) is None
    flip(weights / "__2_1.distcp", 0)
    wrong = f"{saves.weights}__2_1.distcp has another checksum than it was saved with"
    assert sums.check_sums(checkpoint) == wrong


def test_a_checkpoint_that_went_away_meanwhile_does_not_come_back(original: Path, tmp_path: Path) -> None:
    checkpoint = HOSTS["nemo"].save(original, tmp_path, 3)
    shutil.rmtree(checkpoint)
    sums.add_sums(checkpoint, 0, 1)
    assert not checkpoint.exists()


def test_sums_are_made_beside_the_training(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = HOSTS["nemo"]
    checkpoint = saves.save(original, tmp_path, 3, listed=False)
    sums.write_list(checkpoint, 4)
    go, read = threading.Event(), sums.file_sum

    def slow(path: Path) -> str:
        go.wait(600)
        return read(path)

    monkeypatch.setattr(sums, "file_sum", slow)
    writer = sums.SumWriter()
    writer.start(checkpoint, 0, 1)
    assert saves.host.is_whole(checkpoint) and not list((checkpoint / sums.SUMS).iterdir())
    go.set()
    writer.wait()
    assert sums.check_sums(checkpoint) is None and list((checkpoint / sums.SUMS).iterdir())
