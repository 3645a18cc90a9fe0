# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A writer that is killed: at every single step it takes, an output is whole or absent, and the next one cleans up."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io import write as module
from nemo_elastic.io.outputs import atomic_dir, filled_dir, sign
from nemo_elastic.io.write import MARK, atomic_write, clear_leftovers, flush, put_in_place, temporary
from tests.support.alone import alone

from .test_write import OURS

#: What Python tells its audit hooks of, among the steps that touch the disk.
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "fcntl.flock"}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def write(out: Path, text: str = "new") -> None:
    with atomic_dir(out, force=True, kind=OURS) as tmp:
        fill(tmp, text)


def fill(folder: Path, text: str) -> None:
    (folder / "sub").mkdir()
    for name in ("a", "sub/b"):
        (folder / name).write_text(text)


def write_over(out: Path) -> None:
    """The renames alone, over what `atomic_dir` leaves alone: a file of somebody's."""
    with temporary(out) as tmp:
        tmp.mkdir()
        fill(tmp, "new")
        sign(tmp, OURS)
        flush(tmp)
        put_in_place(tmp, out, replace=True)


def state(out: Path) -> str | None:
    """What is at a place: None for nothing, the text of a whole folder or file, `link`; anything else fails."""
    if out.is_symlink():
        return "link"
    if not out.exists():
        return None
    if out.is_file():
        return out.read_text()
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == [MARK, "a", "sub", "sub/b"]
    texts = {(out / name).read_text() for name in ("a", "sub/b")}
    assert len(texts) == 1
    return texts.pop()


def killed_at(step: int, action: Callable[[], None]) -> bool:
    """Run it in a child that kills itself just before its step of that number. False where it was done before."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, _: tuple) -> None:
            nonlocal seen
            if event in STEPS:
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def prepare(out: Path, before: str | None) -> None:
    if before == "file":
        out.write_text("old")
    elif before == "link":
        out.symlink_to("elsewhere")
    elif before == "folder":
        write(out, "old")


def killed_everywhere(
    place: Path, prepare: Callable[[Path], None], action: Callable[[Path], None]
) -> Iterator[tuple[Path, str | None]]:
    """An output and its state before, after each kill of its writer; the last writer lives to its end."""
    for step in range(1000):
        out = place / str(step) / "out"
        out.parent.mkdir()
        prepare(out)
        old = state(out)
        if not killed_at(step, lambda out=out: action(out)):
            assert step > 5 and state(out) == "new" and names(out.parent) == ["out"]
            return
        yield out, old
        shutil.rmtree(out.parent)


@pytest.mark.parametrize("before", [None, "folder", "file", "link"])
@alone
def test_killed_at_every_step(tmp_path, before):
    seen, writer = set(), write_over if before == "file" else write
    for out, old in killed_everywhere(tmp_path, lambda out: prepare(out, before), writer):
        left = state(out)
        assert left in (old, "new", None)
        if left is None and old is not None:
            (aside,) = out.parent.glob(".out.*.old")
            assert state(aside) == old, "the old one is whole, and beside its place"
        seen.add(left)
        clear_leftovers(out)
        assert state(out) in (old, "new"), "the old one is never lost"
        assert names(out.parent) == (["out"] if state(out) is not None else [])
        writer(out)
        assert state(out) == "new" and names(out.parent) == ["out"]
    assert seen == {old, "new", *([] if before is None else [None])}  # None is between the two renames


@alone
def test_killed_again_while_clearing_up(tmp_path):
    rng = random.Random(5)
    again = 0
    for trial in range(30):
        out = tmp_path / str(trial) / "out"
        out.parent.mkdir()
        write(out, "old")
        killed_at(rng.randrange(30), lambda out=out: write(out))
        for _ in range(3):
            again += killed_at(rng.randrange(25), lambda out=out: clear_leftovers(out))
        again += killed_at(rng.randrange(30), lambda out=out: write(out))
        clear_leftovers(out)
        assert state(out) in ("old", "new") and names(out.parent) == ["out"]
    assert again > 15


@pytest.mark.parametrize("before", [None, "folder"])
@alone
def test_a_folder_that_is_filled_in_its_place_killed_at_every_step(tmp_path, before):
    """An older one comes back whenever the new one was not whole; nothing else stays beside it."""

    def refill(out: Path) -> None:
        with filled_dir(out, OURS, force=True):
            fill(out, "new")

    seen = set()
    for out, _ in killed_everywhere(tmp_path, lambda out: prepare(out, before), refill):
        clear_leftovers(out)
        if before is not None:
            seen.add(state(out))
        assert names(out.parent) in (["out"], *([[]] if before is None else []))
    assert seen == ({"old", "new"} if before else set())


def test_a_full_disk_before_a_folder_is_filled_leaves_the_old_one(tmp_path, monkeypatch):
    out, new = tmp_path / "out", tmp_path / "new"
    write(out, "old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nemo_elastic.io.outputs.sign", full)
    for place in (out, new):
        with pytest.raises(ElasticError, match="no space left"), filled_dir(place, OURS, force=True):
            pytest.fail("the block must not run")
    assert state(out) == "old" and names(tmp_path) == ["out"]


@alone
def test_a_file_killed_at_every_step(tmp_path):
    for path, _ in killed_everywhere(tmp_path, lambda path: path.write_text("old"), lambda p: atomic_write(p, "new")):
        assert path.read_text() in ("old", "new")
        atomic_write(path, "newer")
        assert path.read_text() == "newer" and names(path.parent) == ["out"]


def test_what_a_living_writer_has_is_left_alone(tmp_path):
    out = tmp_path / "out"
    with atomic_dir(out, force=True, kind=OURS) as tmp:
        write(tmp_path / "warm up")
        clear_leftovers(out)
        write(out, "meanwhile")
        assert tmp.is_dir() and state(out) == "meanwhile"
        (tmp / "file").write_text("x")
    assert names(out) == [MARK, "file"] and names(tmp_path) == ["out", "warm up"]


def test_only_leftovers_of_this_target_are_cleared(tmp_path):
    kept = [".out.txt", ".out.0123abcd.tmpx", ".other.0123abcd.tmp", "out.0123abcd.tmp", ".out.0123ABCD.tmp"]
    gone = [".out.0123abcd.tmp", ".out.4567abcd.lock", ".out.89ababcd.tmp", ".out.89ababcd.lock"]
    for name in kept + gone:
        (tmp_path / name).write_text("x")
    write(tmp_path / "linked")
    (tmp_path / ".out.77777777.tmp").symlink_to(tmp_path / "linked")
    write(tmp_path / "out")
    assert names(tmp_path) == sorted([*kept, "out", "linked"]) and state(tmp_path / "linked") == "new"


def test_names_of_which_only_the_end_differs_are_different_targets(tmp_path):
    a, b = tmp_path / ("n" * 254 + "a"), tmp_path / ("n" * 254 + "b")
    assert killed_at(12, lambda: write(a))
    left = names(tmp_path)
    write(b)
    assert left and set(left) < set(names(tmp_path))
    write(a)
    assert names(tmp_path) == [a.name, b.name]


def test_without_locks_nothing_is_cleared_and_all_is_written(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".out.0123abcd.lock").touch()
    (tmp_path / ".out.0123abcd.tmp").mkdir()
    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    write(tmp_path / "out", "old")
    write(tmp_path / "out")
    assert state(tmp_path / "out") == "new"
    assert names(tmp_path) == [".out.0123abcd.lock", ".out.0123abcd.tmp", "out"]


def test_a_rename_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old")
    rename = os.rename

    def fail(src, dst):
        if str(src).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        rename(src, dst)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ElasticError, match=r"out: cannot be written \(Input/output error"):
        write(out)
    assert names(tmp_path) == ["out"] and state(out) == "old"


@alone
def test_an_output_that_appears_at_the_last_moment_is_not_overwritten(tmp_path):
    for exists in (True, False):
        out = tmp_path / str(exists)
        with temporary(out) as tmp:
            tmp.mkdir()
            if exists:
                out.mkdir()  # an empty folder, which a plain rename would replace
                with pytest.raises(ElasticError, match="another process wrote this file meanwhile"):
                    put_in_place(tmp, out)
            else:
                put_in_place(tmp, out)
        assert out.is_dir()
    assert names(tmp_path) == ["False", "True"]


def _rewrite(out: Path, seed: int) -> None:
    for i in range(25):
        with contextlib.suppress(ElasticError):  # another one was faster
            write(out, f"{seed} {i}")


@alone
def test_many_writers_of_one_output(tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_rewrite, args=(tmp_path / "out", seed)) for seed in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        with contextlib.suppress(FileNotFoundError):  # only before the first, or where a folder went while it was read
            assert (tmp_path / "out" / "a").read_text() != ""
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert state(tmp_path / "out") is not None and names(tmp_path) == ["out"]
