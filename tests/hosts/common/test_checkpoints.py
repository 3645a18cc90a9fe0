# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints of a run are whole, what a start resumes from, and what becomes of the others, on both hosts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.metadata import last_iteration
from nemo_elastic.hosts.common import checkpoints
from nemo_elastic.hosts.common.checkpoints import BRIDGE, NEMO, NEWEST_STATE, Checkpoints, newest_of, write_list
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors

#: files of values beside the weights, in a folder of these
STATE = "train_state.pt"


@dataclass(frozen=True)
class Saves:
    """What a host leaves.

    Attributes:
        host: the adapter.
        name: of a checkpoint, by its steps.
        weights: folder of weights in it.
        aside: its name where it is damaged.
    """

    host: Checkpoints
    name: Callable[[int], str]
    weights: str
    aside: Callable[[str], str]

    def save(self, original: Path, folder: Path, step: int, listed: bool = True) -> Path:
        """A checkpoint as a run leaves it, with a list of its files or, as a host alone leaves it, without."""
        checkpoint = folder / self.name(step)
        if self.host is NEMO:
            shutil.copytree(original, checkpoint)
        else:
            shutil.copytree(original / "weights", checkpoint)
            (checkpoint / "run_config.yaml").write_text("model: {}\n")
            torch.save({"step": torch.tensor(step)}, checkpoint / STATE)
            shutil.copy(checkpoint / STATE, folder / NEWEST_STATE)
            (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
        if listed:
            write_list(checkpoint, step)
        return checkpoint

    def cut_short(self, original: Path, folder: Path, step: int) -> Path:
        """One that a kill has interrupted while it was written."""
        checkpoint = self.save(original, folder, step, listed=False)
        self.host.mark(checkpoint).touch()
        return checkpoint


HOSTS = {
    "nemo": Saves(NEMO, lambda step: f"step={step}-last", "weights/", lambda name: f"{name}-damaged"),
    "bridge": Saves(BRIDGE, lambda step: f"iter_{step:07d}", "", lambda name: f"damaged_{name}"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of NeMo's."""
    folder = store(tmp_path_factory.mktemp("saved") / "one", PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({"a": 1}, folder / "weights" / "common.pt")
    return folder


@pytest.fixture(params=HOSTS)
def saves(request: pytest.FixtureRequest) -> Saves:
    return HOSTS[request.param]


def cut(path: Path) -> None:
    """As a full disk, or a copy that was stopped, leaves a file."""
    os.truncate(path, path.stat().st_size // 2)


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


#: what happens to the folder of weights -> what is said of it
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda p: cut(p / "__0_0.distcp"), "__0_0.distcp:? has .* bytes"),
    "no metadata": (lambda p: (p / ".metadata").unlink(), r"\.metadata.*missing"),
    "no common.pt": (lambda p: (p / "common.pt").unlink(), "common.pt"),
}
ONLY = {
    "nemo": {"no weights": (lambda p: shutil.rmtree(p), "weights/")},
    "bridge": {
        "cut state": (lambda p: cut(p / STATE), rf"{STATE} (is cut off|has \d+ bytes, not)"),
        "no state": (lambda p: (p / STATE).unlink(), f"{STATE} is missing"),
    },
}


@pytest.mark.parametrize("listed", [True, False], ids=["ours", "the host's alone"])
@pytest.mark.parametrize(("name", "damage"), [(n, d) for n, own in ONLY.items() for d in (*DAMAGE, *own)])
def test_a_damaged_checkpoint_is_passed_over_and_why_is_said(
    original: Path, tmp_path: Path, name: str, damage: str, listed: bool
) -> None:
    saves = HOSTS[name]
    first, second = (saves.save(original, tmp_path, step, listed) for step in (3, 7))
    os.utime(first, (1, 1))
    assert saves.host.choose(tmp_path) == (second, [])
    hurt, why = (DAMAGE | ONLY[name])[damage]
    hurt(second / saves.weights)
    chosen, (line,) = saves.host.choose(tmp_path)
    assert chosen == first
    assert line.startswith(f"{second.name} is passed over: ") and line.endswith(f"; the run resumes from {first.name}")
    assert re.search(why, line)
    assert saves.host.whole(tmp_path) == [first] and not saves.host.is_whole(second)
    assert saves.host.newest(tmp_path) == f"the next start resumes from {first}"
    saves.host.set_aside(tmp_path)
    assert folders(tmp_path) == sorted([first.name, saves.aside(second.name)])


@pytest.mark.parametrize("content", ["{", '{"files": {"a": "b"}, "step": []}'])
def test_a_damaged_list_is_damage(original: Path, tmp_path: Path, saves: Saves, content: str) -> None:
    checkpoint = saves.save(original, tmp_path, 3)
    (checkpoint / checkpoints.LIST).write_text(content)
    assert checkpoints.LIST in str(saves.host.problem(checkpoint))


def test_what_is_set_aside_twice_has_two_names(original: Path, tmp_path: Path, saves: Saves) -> None:
    for _ in range(2):
        DAMAGE["no common.pt"][0](saves.save(original, tmp_path, 3) / saves.weights)
        saves.host.set_aside(tmp_path)
    aside = saves.aside(saves.name(3))
    assert folders(tmp_path) == [aside, f"{aside}1"]


def test_without_a_whole_one_nothing_starts_from_the_beginning(original: Path, tmp_path: Path, saves: Saves) -> None:
    for step in (3, 7):
        (saves.save(original, tmp_path, step) / saves.weights / "common.pt").unlink()
    names = [saves.name(step) for step in (7, 3)]
    with pytest.raises(ElasticError, match=r" is passed over: .*; ".join(names) + " is passed over: .* no other is"):
        saves.host.choose(tmp_path)
    assert saves.host.newest(tmp_path) == "there is no whole checkpoint"


def test_what_was_never_finished_is_none(original: Path, tmp_path: Path, saves: Saves) -> None:
    assert saves.host.choose(tmp_path / "none") == (None, [])
    assert saves.host.newest(tmp_path) == "there is no whole checkpoint yet"
    checkpoint = saves.cut_short(original, tmp_path, 3)
    assert saves.host.choose(tmp_path)[0] is None and not saves.host.is_whole(checkpoint)
    whole = saves.save(original, tmp_path, 2)
    assert saves.host.choose(tmp_path)[0] == whole
    saves.host.remove_unfinished(checkpoint)
    assert folders(tmp_path) == [whole.name] and not saves.host.mark(checkpoint).exists()


def test_the_mark_is_nemos() -> None:
    nl = pytest.importorskip("nemo.lightning")
    assert nl.ModelCheckpoint.format_checkpoint_unfinished_marker_path(Path("a/b")) == NEMO.mark(Path("a/b"))


def test_the_newest_are_kept_which_have_more_steps_whatever_the_clock_says(
    original: Path, tmp_path: Path, saves: Saves
) -> None:
    left = [saves.save(original, tmp_path, step, listed=step > 3) for step in (3, 7, 11)]
    for age, checkpoint in enumerate(left):
        os.utime(checkpoint, (10**9 - age, 10**9 - age))
    assert saves.host.finished(tmp_path) == left and saves.host.superseded(tmp_path, 2) == left[:1]
    checkpoints.remove(left[0])
    assert saves.host.finished(tmp_path) == left[1:] and saves.host.set_aside(tmp_path) is None
    assert not list(tmp_path.glob(f"*{left[0].name}*"))


# ------------------------------------------------------------------ on Megatron-Bridge, which removes nothing itself


def test_what_a_kill_cut_short_is_named_and_set_aside(original: Path, tmp_path: Path) -> None:
    saves = HOSTS["bridge"]
    first = saves.save(original, tmp_path, 3)
    half = saves.cut_short(original, tmp_path, 7)
    chosen, (line,) = BRIDGE.choose(tmp_path)
    assert chosen == first
    assert line == f"{half.name} is passed over: it was not written to its end; the run resumes from {first.name}"
    BRIDGE.clear(tmp_path, first)
    assert folders(tmp_path) == [f"damaged_{half.name}", first.name]
    assert last_iteration(tmp_path) == first, "Bridge starts from what its tracker names"
    assert (tmp_path / NEWEST_STATE).read_bytes() == (first / STATE).read_bytes()
    assert not list(tmp_path.glob("unfinished_*"))


def test_a_first_save_that_was_cut_short_is_not_loaded(original: Path, tmp_path: Path) -> None:
    half = HOSTS["bridge"].cut_short(original, tmp_path, 3)
    chosen, lines = BRIDGE.choose(tmp_path)
    wanted = f"{half.name} is passed over: it was not written to its end; the run starts from the beginning"
    assert (chosen, lines) == (None, [wanted])
    BRIDGE.clear(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == [f"damaged_{half.name}"]


def test_a_kill_between_two_files_of_a_save_without_marks(original: Path, tmp_path: Path) -> None:
    """As Bridge saves alone: the tracker, then the last file of the checkpoint that it names."""
    saves = HOSTS["bridge"]
    first, second, third = (saves.save(original, tmp_path, step, listed=False) for step in (3, 7, 11))
    (second / "run_config.yaml").unlink()
    (third / "run_config.yaml").unlink()
    chosen, lines = BRIDGE.choose(tmp_path)
    assert chosen == first
    assert [line.partition(";")[0] for line in lines] == [
        f"{second.name} is passed over: it was not written to its end",
        f"{third.name} is passed over: run_config.yaml is missing",
    ]
    BRIDGE.clear(tmp_path, first)
    assert folders(tmp_path) == [f"damaged_{second.name}", f"damaged_{third.name}", first.name]


# ------------------------------------------------------------------ a checkpoint that a training starts from


@pytest.mark.parametrize("said", [True, False], ids=["today", "of before"])
def test_a_run_of_an_earlier_version_is_not_resumed(tmp_path: Path, said: bool) -> None:
    block = {"budgets": [{"name": "full"}, {"name": "small", "ratio": 0.7}], "axes": {"hidden": [PARENT.hidden, 8]}}
    ranking = {"module.elastic.ranking": torch.zeros(32, dtype=torch.uint8)} if said else {}
    extra = {"module.elastic.frozen": torch.ones(1).long()} | ranking
    checkpoint = store(tmp_path / "a", PARENT, PARENT.full, random_tensors(PARENT), elastic=block, extra=extra)
    torch.save({}, checkpoint / "weights" / "common.pt")
    config = ElasticConfig.from_dict(block)
    if said:
        (line,) = NEMO.check_start(checkpoint, config, 1, resumed=True)
        assert str(checkpoint) in line
        return
    with pytest.raises(ElasticError, match=f"^resume: {checkpoint} was written by an earlier version"):
        NEMO.check_start(checkpoint, config, 1, resumed=True)


# ------------------------------------------------------------------ a checkpoint that is named by its training


def test_the_folder_of_a_training_is_its_newest_whole_checkpoint(
    original: Path, tmp_path: Path, saves: Saves, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    older, newest = (saves.save(original, folder, step) for step in (9, 19))
    for named in (tmp_path, folder, newest):
        assert newest_of(named) == str(newest)
    assert newest_of(older) == str(older) and capsys.readouterr().out == ""
    cut(next(newest.rglob("*.distcp")))
    assert newest_of(tmp_path) == newest_of(folder, "previous") == str(older)
    for line, name in zip(capsys.readouterr().out.splitlines(), ("teacher", "previous"), strict=True):
        assert line.startswith(f"{name}: {folder}: {newest.name} is passed over: ") and "the run" not in line
    cut(next(older.rglob("*.distcp")))
    with pytest.raises(ElasticError, match="no other is whole"):
        newest_of(tmp_path)


def test_weights_of_bridges_are_a_teacher_whatever_is_left_of_their_run(original: Path, tmp_path: Path) -> None:
    checkpoint = HOSTS["bridge"].save(original, tmp_path, 3, listed=False)
    (checkpoint / STATE).unlink()
    assert newest_of(tmp_path) == str(checkpoint)


def test_what_is_no_training_stays_as_it_was_given(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").symlink_to(original)
    assert newest_of(None) is None
    assert newest_of("/cluster/12b") == "/cluster/12b"
    assert newest_of("one") == str(tmp_path / "one") and newest_of("empty") == str(tmp_path / "empty")
