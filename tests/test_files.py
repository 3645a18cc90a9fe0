# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, and read strictly."""

from __future__ import annotations

import errno
import os
import resource
import stat

import pytest

from nemo_elastic import files
from nemo_elastic.errors import ElasticError
from nemo_elastic.files import atomic_dir, atomic_write, check_apart, explain_os_error, read_json


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

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ElasticError, match="no space left"):
        write(tmp_path / "out")
    with pytest.raises(ElasticError, match="no space left"):
        atomic_write(tmp_path / "file", "x")
    assert names(tmp_path) == []


def test_a_file_above_the_limit_is_one_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for write_it in (lambda p: write(p, "x" * 2000), lambda p: atomic_write(p, "x" * 2000)):
            with pytest.raises(
                ElasticError, match="out: a file is larger than the file system, or `ulimit -f`, allows"
            ):
                write_it(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_a_full_disk_told_by_another_library_is_known_and_a_bug_is_not(tmp_path):
    class SafetensorError(Exception):
        pass

    text = 'Error while serializing: I/O error: Os { code: 28, message: "No space left on device" }'
    assert "no space left" in str(explain_os_error(SafetensorError(text), tmp_path))
    assert explain_os_error(RuntimeError("bug"), tmp_path) is None
    assert explain_os_error(OSError(errno.EIO, "Input/output error"), tmp_path) is None


def test_what_cannot_be_read_is_not_said_to_be_unwritable(tmp_path):
    out, denied = tmp_path / "out", tmp_path / "tokenizer.json"
    for where, told in (
        (denied, f"{denied}: cannot be read (Permission denied)"),
        (out, f"{out}: cannot be written (Permission denied: {out})"),
        (tmp_path / ".out.0123abcd.tmp" / "sub" / "x", f"{out}: cannot be written (Permission denied: {tmp_path})"),
        (None, f"{out}: cannot be written (Permission denied: {out})"),
    ):
        exc = PermissionError(errno.EACCES, "Permission denied", None if where is None else str(where))
        assert str(explain_os_error(exc, out)) == told


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for write_it in (lambda p: write(p), lambda p: atomic_write(p, "x")):
        with pytest.raises(ElasticError, match=r"cannot be written \(Not a directory"):
            write_it(tmp_path / "file" / "out")
    assert names(tmp_path) == ["file"]


def test_a_file_inside_of_what_is_written_is_told_as_the_output(tmp_path):
    """As `elastic.json` in a family."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ElasticError, match=f"^{tmp_path / 'out'}: a file is larger"):
            with atomic_dir(tmp_path / "out") as tmp:
                atomic_write(tmp / "file", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_an_unwritable_folder_is_one_line_that_names_it(tmp_path, monkeypatch):
    """Root may write everywhere, so the answer is put in; tests/export/test_faults.py mounts the real thing."""
    mkdir, open_ = os.mkdir, os.open

    def refuse(path, *rest, **other):
        if str(path).startswith(str(tmp_path / "ro")):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return (mkdir if other.pop("make", False) else open_)(path, *rest, **other)

    (tmp_path / "ro").mkdir()
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "mkdir", lambda path, *rest, **other: refuse(path, *rest, make=True, **other))
    for out, where in (
        (tmp_path / "ro" / "out", tmp_path / "ro"),
        (tmp_path / "ro" / "a" / "out", tmp_path / "ro" / "a"),
    ):
        with pytest.raises(ElasticError) as told:
            write(out)
        assert told.value.message == f"{out}: cannot be written (Read-only file system: {where})"


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128])
def test_a_name_that_cannot_be_is_one_line_before_anything_is_written(tmp_path, name):
    with pytest.raises(ElasticError, match=r"cannot be written \(File name too long"):
        with atomic_dir(tmp_path / name):
            pytest.fail("the block must not run")
    with pytest.raises(ElasticError, match="File name too long"):
        atomic_write(tmp_path / name, "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "-", "a\nb", ".x.0123abcd.tmp"])
def test_a_name_that_can_be_is_written(tmp_path, name):
    write(tmp_path / name)
    write(tmp_path / name, "newer", force=True)
    atomic_write(tmp_path / "sub" / name, "x")
    assert names(tmp_path) == sorted([name, "sub"]) and names(tmp_path / "sub") == [name]


def test_an_output_is_neither_inside_nor_around_what_is_read(tmp_path, monkeypatch):
    source = tmp_path / "runs" / "family"
    write(source)
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(source)
    for out, read, word in (
        (source / "cut", source, "is inside"),
        (source / "sub" / "file", source, "is inside"),
        (tmp_path / "link" / "cut", source, "is inside"),
        (source / "cut", tmp_path / "link", "is inside"),
        ("cut", ".", "is inside"),
        (tmp_path / "runs", source, "holds"),
        (tmp_path, tmp_path / "link", "holds"),
    ):
        with pytest.raises(ElasticError, match=f"{os.path.abspath(out)}: {word} .*, which is read; name a"):
            check_apart(out, read)
    for out in (source, tmp_path / "link", tmp_path / "runs" / "family2", tmp_path / "new" / "cut", "../cut"):
        check_apart(out, source)


def test_a_home_that_is_not_known_is_no_trouble(tmp_path, monkeypatch):
    """As in a container that runs under any number as its user."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(RuntimeError):
        files.Path.home()
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


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
