# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.outputs import Output, atomic_dir, filled_dir
from nemo_elastic.io.write import MARK, atomic_write, explain_os_error


def names(folder):
    return sorted(p.name for p in folder.iterdir())


OURS = Output("a test output")


def write(out, text="new", **options):
    """A folder of ours: it is signed."""
    with atomic_dir(out, kind=OURS, **options) as tmp:
        (tmp / "sub").mkdir()
        (tmp / "sub" / "file").write_text(text)


def test_a_folder_has_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "out")
        atomic_write(tmp_path / "file", "x")
        (tmp_path / "shared").touch()
        (tmp_path / "shared").chmod(0o664)
        atomic_write(tmp_path / "shared", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o664, "one that is there keeps its own"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("way", ["done", "interrupted"])
@pytest.mark.parametrize("before", ["nothing", "empty folder", "ours"])
def test_a_folder_that_is_filled_in_its_place(tmp_path, before, way):
    out = tmp_path / "deep" / "out"
    if before == "ours":
        write(out, "old")
    elif before == "empty folder":
        out.mkdir(parents=True)
    with suppress(KeyboardInterrupt):
        with filled_dir(out, OURS, force=before == "ours") as folder:
            assert folder == out and names(out) == [MARK]
            (out / "new").touch()
            if way == "interrupted":
                raise KeyboardInterrupt
    assert names(out.parent) == ["out"]
    assert names(out) == ([MARK, "sub"] if way != "done" and before == "ours" else [MARK, "new"])


def test_a_folder_that_is_filled_replaces_nothing_else(tmp_path):
    write(tmp_path / "mine", "old")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis").touch()
    for name, force in (("mine", False), ("theirs", False), ("theirs", True)):
        with pytest.raises(ElasticError), filled_dir(tmp_path / name, OURS, force):
            pytest.fail("the block must not run")
    assert names(tmp_path / "mine") == [MARK, "sub"] and names(tmp_path / "theirs") == ["thesis"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nor_one_that_appears_at_the_last_step(tmp_path, monkeypatch, kind):
    out = tmp_path / "out"
    for name in ("rename", "link"):

        def late(old, new, put=getattr(os, name)):
            (out / "sub" if kind == "folder" else out.parent).mkdir(parents=True, exist_ok=True)
            (out / "sub" / "file" if kind == "folder" else out).write_text("theirs")
            put(old, new)

        monkeypatch.setattr(os, name, late)
    with pytest.raises(ElasticError, match="another process wrote this"):
        write(out) if kind == "folder" else atomic_write(out, "ours", replace=False)
    assert names(tmp_path) == ["out"]
    assert (out / "sub" / "file" if kind == "folder" else out).read_text() == "theirs"


def test_a_file_system_without_hard_links_takes_files_too(tmp_path, monkeypatch):
    def none(old, new):
        raise PermissionError(errno.EPERM, "Operation not permitted", old, None, new)

    monkeypatch.setattr(os, "link", none)
    atomic_write(tmp_path / "out", "ours", replace=False)
    assert names(tmp_path) == ["out"] and (tmp_path / "out").read_text() == "ours"


def test_a_full_disk_found_while_flushing_and_a_file_on_the_way_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ElasticError, match=r"out: cannot be written \(Not a directory"):
        atomic_write(tmp_path / "file" / "out", "x")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ElasticError, match="out: no space left"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["file"]


def test_what_is_renamed_is_on_the_disk_before_and_its_name_after(tmp_path, monkeypatch):
    steps, sync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append(os.fstat(handle).st_ino), sync(handle)))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda old, new: (steps.append(str(new)), rename(old, new)))
    out, file = tmp_path / "out", tmp_path / "file"
    write(out)
    atomic_write(file, "x")
    before, rest = steps[: steps.index(str(out))], steps[steps.index(str(out)) :]
    assert {path.stat().st_ino for path in (out, *out.rglob("*"))} <= set(before)
    assert rest == [str(out), tmp_path.stat().st_ino, file.stat().st_ino, str(file), tmp_path.stat().st_ino]


def test_a_full_disk_reported_by_another_library_is_known_and_a_bug_is_not(tmp_path):
    class SafetensorError(Exception):
        pass

    text = 'Error while serializing: I/O error: Os { code: 28, message: "No space left on device" }'
    assert "no space left" in str(explain_os_error(SafetensorError(text), tmp_path))
    for words, message in (
        ("Worker failure: [Errno 27] File too large", "a file is larger"),
        ("PytorchStreamWriter failed writing file data/0: file write failed", "could not be written to its end"),
    ):
        assert message in str(explain_os_error(RuntimeError(words), tmp_path))
    reader = "PytorchStreamReader failed reading zip archive: [enforce fail at inline_container.cc:1]"
    for bug in (RuntimeError(reader), OSError(errno.EBADF, "Bad file descriptor"), OSError("something")):
        assert explain_os_error(bug, tmp_path) is None


def test_an_error_that_is_no_exception_is_one_line_too(tmp_path):
    """That of torch's checkpoints derives from BaseException."""

    class CheckpointException(BaseException):
        pass

    with pytest.raises(ElasticError, match="no space left"), atomic_dir(tmp_path / "out"):
        raise CheckpointException("RuntimeError: Worker failure: [Errno 28] No space left on device")
    with pytest.raises(ElasticError, match=r"^what it says: "), atomic_dir(tmp_path / "out"):
        raise ElasticError("what it says: No space left on device")
    assert names(tmp_path) == []


def test_what_cannot_be_read_is_not_said_to_be_unwritable(tmp_path):
    out, denied = tmp_path / "out", tmp_path / "tokenizer.json"
    for where, message in (
        (denied, f"{denied}: cannot be read (Permission denied)"),
        (out, f"{out}: cannot be written (Permission denied: {out})"),
        (tmp_path / ".out.0123abcd.tmp" / "sub" / "x", f"{out}: cannot be written (Permission denied: {tmp_path})"),
        (None, f"{out}: cannot be written (Permission denied: {out})"),
    ):
        exc = PermissionError(errno.EACCES, "Permission denied", None if where is None else str(where))
        assert str(explain_os_error(exc, out)) == message


def test_folders_above_a_failed_output_do_not_stay(tmp_path):
    error = KeyboardInterrupt
    with pytest.raises(error), atomic_dir(tmp_path / "a" / "b" / "out"):
        raise error
    assert names(tmp_path) == []
    with pytest.raises(error), atomic_dir(tmp_path / "a" / "out"):
        atomic_write(tmp_path / "a" / "theirs", "x")
        raise error
    assert names(tmp_path / "a") == ["theirs"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("é" * 128, "File name too long"), (".x.0123abcd.tmp", "a temporary name")],
)
def test_a_name_that_cannot_be_is_one_line_before_anything_is_written(tmp_path, name, why):
    with pytest.raises(ElasticError, match=why):
        with atomic_dir(tmp_path / name):
            pytest.fail("the block must not run")
    with pytest.raises(ElasticError, match=why):
        atomic_write(tmp_path / name, "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["é" * 127, "a\nb"])
def test_a_name_that_can_be_is_written(tmp_path, name):
    write(tmp_path / name)
    write(tmp_path / name, "newer", force=True)
    atomic_write(tmp_path / "sub" / name, "x")
    assert names(tmp_path) == sorted([name, "sub"]) and names(tmp_path / "sub") == [name]


def test_a_failed_file_keeps_the_old_one(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "\ud800")
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
    with pytest.raises(ElasticError, match="is a folder"):
        atomic_write(tmp_path, "x")
    with pytest.raises(ElasticError, match="another process wrote this file"):
        atomic_write(path, "new", replace=False)
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
