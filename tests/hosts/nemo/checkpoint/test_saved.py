# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`checkpoint.saved`: which checkpoints of a run are whole, and what a start goes on from."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.nemo.checkpoint import saved
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = store(tmp_path_factory.mktemp("saved") / "one", PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({"a": 1}, folder / "weights" / "common.pt")
    return folder


def save(original: Path, folder: Path, step: int, listed: bool = True) -> Path:
    """A checkpoint as a run leaves it."""
    checkpoint = Path(shutil.copytree(original, folder / f"step={step}-last"))
    if listed:
        saved.write_list(checkpoint, step + 1)
        sums = saved.SumWriter()
        sums.start(checkpoint, 0, 1)
        sums.wait()
    return checkpoint


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, at: int = -2000) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda p: cut(p / "weights" / "__0_0.distcp"), "weights/__0_0.distcp:? has .* bytes, "),
    "cut metadata": (lambda p: cut(p / "weights" / ".metadata"), r"weights/\.metadata"),
    "no metadata": (lambda p: (p / "weights" / ".metadata").unlink(), r"weights/\.metadata.*missing"),
    "no common.pt": (lambda p: (p / "weights" / "common.pt").unlink(), "weights/common.pt"),
    "no metadata.json": (lambda p: (p / "weights" / "metadata.json").unlink(), "metadata.json"),
    "no weights": (lambda p: shutil.rmtree(p / "weights"), "weights/"),
}


@pytest.mark.parametrize("listed", [True, False], ids=["ours", "version 0.1"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_why_is_said(
    original: Path, tmp_path: Path, damage: str, listed: bool
) -> None:
    first, second = (save(original, tmp_path, step, listed) for step in (3, 7))
    os.utime(first, (1, 1))
    assert saved.choose(tmp_path) == (second, [])
    hurt, why = DAMAGE[damage]
    hurt(second)
    found, (line,) = saved.choose(tmp_path)
    assert found == first
    assert line.startswith("step=7-last is passed over: ") and line.endswith("; the run goes on from step=3-last")
    assert re.search(why, line)
    assert saved.whole_checkpoints(tmp_path) == [first] and not saved.is_whole(second)
    assert saved.newest(tmp_path) == f"the next start goes on from {first}"
    saved.set_aside(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step=3-last", "step=7-last-damaged"]


def test_without_a_whole_one_nothing_starts_from_the_beginning(original: Path, tmp_path: Path) -> None:
    for step in (3, 7):
        (save(original, tmp_path, step) / "weights" / "common.pt").unlink()
    with pytest.raises(
        ElasticError, match=r"step=7-last is passed over: .*; step=3-last is passed over: .* no other is"
    ):
        saved.choose(tmp_path)
    assert saved.newest(tmp_path) == "there is no whole checkpoint"


def test_what_was_never_finished_is_none(original: Path, tmp_path: Path) -> None:
    assert saved.choose(tmp_path / "none") == (None, [])
    checkpoint = save(original, tmp_path, 3)
    (tmp_path / "step=3-last-unfinished").touch()
    assert saved.choose(tmp_path) == (None, []) and not saved.is_whole(checkpoint)


def test_the_mark_is_nemos() -> None:
    nl = pytest.importorskip("nemo.lightning")
    assert nl.ModelCheckpoint.format_checkpoint_unfinished_marker_path(Path("a/b")) == Path("a/b" + saved.UNFINISHED)


def test_the_newest_is_the_one_with_more_steps_whatever_the_clock_says(original: Path, tmp_path: Path) -> None:
    checkpoints = [save(original, tmp_path, step, listed=step > 3) for step in (3, 7, 11)]
    for age, checkpoint in enumerate(checkpoints):
        os.utime(checkpoint, (10**9 - age, 10**9 - age))
    assert saved.saved(tmp_path) == checkpoints


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"files": []}', '{"files": {"a": "b"}, "step": 1}', '{"files": {}, "step": []}']
)
def test_a_damaged_list_is_damage(original: Path, tmp_path: Path, content: str) -> None:
    checkpoint = save(original, tmp_path, 3)
    (checkpoint / saved.LIST).write_text(content)
    assert "elastic_files.json" in str(saved.problem(checkpoint))


# ------------------------------------------------------------------ checksums


def test_each_rank_has_the_sums_of_what_it_wrote(original: Path, tmp_path: Path) -> None:
    checkpoint = save(original, tmp_path, 3, listed=False)
    for name in ("__1_0.distcp", "__2_1.distcp", "__9_0.distcp"):
        (checkpoint / "weights" / name).write_bytes(name.encode())
    saved.write_list(checkpoint, 4)
    for rank in range(3):
        saved._add_sums(checkpoint, rank, 3)
    told = [json.loads((checkpoint / saved.SUMS / f"{rank}.json").read_text()) for rank in range(3)]
    assert [list(t) for t in told[1:]] == [["weights/__1_0.distcp"], ["weights/__2_1.distcp"]]
    assert {"weights/.metadata", "weights/__9_0.distcp", "context/model.yaml"} <= told[0].keys()
    assert saved.check_sums(checkpoint) is None
    flip(checkpoint / "weights" / "__2_1.distcp", 0)
    assert saved.check_sums(checkpoint) == "weights/__2_1.distcp has another checksum than it was saved with"


def test_a_checkpoint_that_went_away_meanwhile_does_not_come_back(original: Path, tmp_path: Path) -> None:
    checkpoint = save(original, tmp_path, 3)
    shutil.rmtree(checkpoint)
    saved._add_sums(checkpoint, 0, 1)
    assert not checkpoint.exists()


def test_sums_are_made_beside_the_training(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save(original, tmp_path, 3, listed=False)
    saved.write_list(checkpoint, 4)
    go, read = threading.Event(), saved.file_sum

    def slow(path: Path) -> str:
        go.wait(600)
        return read(path)

    monkeypatch.setattr(saved, "file_sum", slow)
    sums = saved.SumWriter()
    sums.start(checkpoint, 0, 1)
    assert saved.is_whole(checkpoint) and not list((checkpoint / saved.SUMS).iterdir())
    go.set()
    sums.wait()
    assert saved.check_sums(checkpoint) is None and list((checkpoint / saved.SUMS).iterdir())


@pytest.mark.parametrize(("wish", "crashed", "found"), [
    ("", True, 3), ("", False, 7), ("always", False, 3), ("always", True, 3), ("never", True, 7), ("never", False, 7),
])  # fmt: skip
def test_sums_are_verified_after_a_crash_and_on_request(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str, crashed: bool, found: int
) -> None:
    for step in (3, 7):
        save(original, tmp_path, step)
    saved.begin(tmp_path)
    if not crashed:
        saved.end(tmp_path)
    flip(tmp_path / "step=7-last" / "weights" / "__0_0.distcp")
    monkeypatch.setenv(saved.VERIFY, wish)
    saved.verify_sums(tmp_path, first=True)
    chosen, passed = saved.choose(tmp_path)
    assert chosen == tmp_path / f"step={found}-last"
    assert [p.partition(": ")[2].partition(";")[0] for p in passed] == (
        ["weights/__0_0.distcp has another checksum than it was saved with"] if found == 3 else []
    )


def test_the_other_ranks_wait_for_the_one_that_reads(original: Path, tmp_path: Path) -> None:
    for step in (3, 7):
        save(original, tmp_path, step)
    saved.begin(tmp_path)
    flip(tmp_path / "step=7-last" / "weights" / "common.pt", 500)
    chosen = []

    def other() -> None:
        saved.verify_sums(tmp_path, first=False)
        chosen.append(saved.choose(tmp_path)[0])

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    time.sleep(0.2)
    assert not chosen
    saved.verify_sums(tmp_path, first=True)
    thread.join(600)
    assert chosen == [tmp_path / "step=3-last"]
    saved.verify_sums(tmp_path, first=False)  # of the next start, before the run goes on: told already


def test_another_wish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(saved.VERIFY, "yes")
    with pytest.raises(ElasticError, match="NEMO_ELASTIC_VERIFY: 'yes' is not allowed; always or never"):
        saved.verify_sums(tmp_path, first=True)
