# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, and read strictly."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from nemo_elastic import files
from nemo_elastic.errors import ElasticError
from nemo_elastic.files import atomic_dir, atomic_write, explain_os_error, read_json


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def write(out, text="new", **options):
    with atomic_dir(out, **options) as tmp:
        (tmp / "sub").mkdir()
        (tmp / "sub" / "file").write_text(text)


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with atomic_dir(out) as tmp:
        assert tmp.parent == out.parent and not out.exists()
        (tmp / "file").write_text("x")
    assert names(out.parent) == ["out"] and names(out) == ["file"]


def test_a_folder_has_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "out")
        atomic_write(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_any_exception_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(type(error)) as raised:
        with atomic_dir(tmp_path / "out") as tmp:
            (tmp / "file").write_text("x")
            raise error
    assert raised.value is error
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_an_existing_output_is_refused_and_untouched(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        write(out, "old")
    elif kind == "empty folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("old")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(ElasticError, match="out: already exists; --force replaces it"):
        write(out)
    assert names(tmp_path) == ["out"]
    assert kind != "folder" or (out / "sub" / "file").read_text() == "old"


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_force_replaces_it(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    write(other, "kept")
    if kind == "folder":
        write(out, "old")
        (out / "stale").write_text("x")
    elif kind == "file":
        out.write_text("old")
    else:
        out.symlink_to(other)
    write(out, force=True)
    assert names(tmp_path) == ["other", "out"] and names(out) == ["sub"]
    assert (out / "sub" / "file").read_text() == "new" and not out.is_symlink()
    assert (other / "sub" / "file").read_text() == "kept"


def test_force_may_read_from_what_it_replaces(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with atomic_dir(out, force=True) as tmp:
        (tmp / "file").write_text((out / "sub" / "file").read_text() + "er")
    assert (out / "file").read_text() == "older"


def test_a_failure_under_force_keeps_the_old_one(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(RuntimeError), atomic_dir(out, force=True):
        raise RuntimeError
    assert names(tmp_path) == ["out"] and (out / "sub" / "file").read_text() == "old"


def test_a_failed_rename_under_force_puts_the_old_one_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old")
    rename = os.rename

    def fail(src, dst):
        if str(src).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        rename(src, dst)

    monkeypatch.setattr(files.os, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(out, force=True)
    assert names(tmp_path) == ["out"] and (out / "sub" / "file").read_text() == "old"


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ElasticError, match="already exists"), atomic_dir(out):
        write(out, "theirs")
    assert names(tmp_path) == ["out"] and (out / "sub" / "file").read_text() == "theirs"


def test_force_never_replaces_the_current_folder_or_the_home(tmp_path, monkeypatch):
    work, home = tmp_path / "a" / "work", tmp_path / "b" / "home"
    work.mkdir(parents=True)
    home.mkdir(parents=True)
    (work / "thesis").write_text("x")
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    for out, word in ((".", "current"), ("..", "current"), (tmp_path / "b", "home"), (home, "home"), ("/", "current")):
        with pytest.raises(ElasticError, match=f"holds the {word} folder"):
            write(out, force=True)
    assert (work / "thesis").exists() and home.is_dir()
    write("out", force=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(tmp_path, code):
    with pytest.raises(ElasticError) as raised, atomic_dir(tmp_path / "out") as tmp:
        (tmp / "file").write_text("x")
        raise OSError(code, os.strerror(code), str(tmp / "file"))
    assert str(raised.value) == f"{tmp_path / 'out'}: no space left on the disk; nothing was written"
    assert names(tmp_path) == []


def test_a_full_disk_found_while_flushing_is_one_line(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ElasticError, match="no space left"):
        write(tmp_path / "out")
    with pytest.raises(ElasticError, match="no space left"):
        atomic_write(tmp_path / "file", "x")
    assert names(tmp_path) == []


def test_a_full_disk_told_by_another_library_is_known_and_a_bug_is_not(tmp_path):
    class SafetensorError(Exception):
        pass

    text = 'Error while serializing: I/O error: Os { code: 28, message: "No space left on device" }'
    assert "no space left" in str(explain_os_error(SafetensorError(text), tmp_path))
    assert explain_os_error(RuntimeError("bug"), tmp_path) is None
    assert explain_os_error(OSError(errno.EIO, "Input/output error"), tmp_path) is None


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for write_it in (lambda p: write(p), lambda p: atomic_write(p, "x")):
        with pytest.raises(ElasticError, match=r"cannot be written \(Not a directory"):
            write_it(tmp_path / "file" / "out")
    assert names(tmp_path) == ["file"]


def test_a_read_only_file_system_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.Path, "mkdir", refuse)
    with pytest.raises(ElasticError, match=r"cannot be written \(Read-only file system"):
        write(tmp_path / "out")


@pytest.mark.parametrize(("content", "expect"), [("é\n", "é\n".encode()), (b"\0\r\n", b"\0\r\n")])
def test_a_file_is_replaced_whole(tmp_path, content, expect):
    path = tmp_path / "deep" / "file"
    atomic_write(path, "old")
    atomic_write(path, content)
    assert path.read_bytes() == expect and names(path.parent) == ["file"]


def test_a_failed_file_keeps_the_old_one(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "\ud800")
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
    with pytest.raises(ElasticError, match="is a folder"):
        atomic_write(tmp_path, "x")


def test_json_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, {"a": true}], "b": 1e-3}')
    assert read_json(path) == {"a": [1, 2.5, None, {"a": True}], "b": 1e-3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1, column 2"),
        (b"", "line 1, column 1"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_bad_json_is_one_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ElasticError) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(ElasticError, match="cannot be read"):
        read_json(tmp_path)
