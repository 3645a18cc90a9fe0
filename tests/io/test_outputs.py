# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be written where; `cli/test_outputs.py` holds every command against it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.outputs import (
    Output,
    atomic_dir,
    check_apart,
    check_file,
    check_output,
    sign,
    why_kept,
)
from nemo_elastic.io.write import MARK
from tests.io.test_write import OURS, names, write
from tests.slicing.helpers import scratch


@pytest.mark.parametrize("kind", ["folder", "empty folder", "link"])
def test_what_is_ours_or_empty_is_replaced_by_force_alone(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    write(other, "kept")
    if kind == "folder":
        write(out, "old")
    elif kind == "empty folder":
        out.mkdir()
    else:
        out.symlink_to(other)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ElasticError, match="out: already exists; --force replaces it"):
        write(out)
    assert sorted(tmp_path.rglob("*")) == before
    assert kind != "folder" or (out / "sub" / "file").read_text() == "old"
    write(out, force=True)
    assert names(tmp_path) == ["other", "out"] and names(out) == [MARK, "sub"]
    assert (out / "sub" / "file").read_text() == "new" and not out.is_symlink()
    assert (other / "sub" / "file").read_text() == "kept"


@pytest.mark.parametrize("kind", ["folder", "file", "link", "damaged mark"])
def test_force_does_not_replace_what_is_not_ours(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "thesis").write_text("x")
    if kind == "folder":
        os.rename(other, out)
    elif kind == "file":
        out.write_text("thesis")
    elif kind == "damaged mark":
        out.mkdir()
        (out / MARK).write_text("{}")
    else:
        out.symlink_to(other)
    before = sorted(tmp_path.rglob("*"))
    for force in (True, False):
        with pytest.raises(ElasticError, match=r"out: .*is not a test output that nemo-elastic wrote"):
            with atomic_dir(out, force=force, kind=OURS):
                pytest.fail("the block must not run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["thesis", "sub/deep/thesis", "link@", "pipe@"])
def test_force_does_not_replace_what_holds_anything_else(tmp_path, name):
    """What was listed is replaced, and a folder without files is nothing; what else is there was put there."""
    out = tmp_path / "out"
    write(out, "old")
    (out / "empty").mkdir()
    path = out / name.removesuffix("@")
    path.parent.mkdir(exist_ok=True)
    if name == "pipe@":
        os.mkfifo(path)
    elif name == "link@":
        path.symlink_to("nowhere")
    else:
        path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for force in (False, True):
        with pytest.raises(ElasticError, match=f"out: .*contains {name}, which is not a part of a test output"):
            write(out, force=force)
    assert sorted(tmp_path.rglob("*")) == before
    path.unlink()
    write(out, force=True)
    assert names(out) == [MARK, "sub"]


def test_an_output_without_a_list_is_kept(tmp_path):
    """Of a writer that was killed; and `kind=None` writes what is never replaced."""
    (tmp_path / "out").mkdir()
    sign(tmp_path / "out", OURS, whole=False)
    assert why_kept(tmp_path / "out", OURS) is None  # nothing else is in it
    (tmp_path / "out" / "file").touch()
    for kind in (OURS, None, Output("another output")):
        with pytest.raises(ElasticError), atomic_dir(tmp_path / "out", True, kind=kind):
            pytest.fail("the block must not run")
    for text in ('{"kind": "a test output", "files": 3}', '{"kind": "a test output", "files": [[], "x"]}', "[", "{}"):
        (tmp_path / "out" / MARK).write_text(text)
        assert why_kept(tmp_path / "out", OURS) is not None


def test_what_became_foreign_while_the_block_ran_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(ElasticError, match="contains thesis, which"), atomic_dir(out, force=True, kind=OURS):
        (out / "thesis").touch()
    assert names(tmp_path) == ["out"] and (out / "sub" / "file").read_text() == "old"


def test_force_never_replaces_the_current_folder_or_the_home(tmp_path, monkeypatch):
    """A home behind a link is as common as a folder of work behind one; all of them carry our mark here."""
    work, home = tmp_path / "disk" / "work", tmp_path / "disk" / "home"
    for folder in (work, home):
        folder.mkdir(parents=True)
        (folder / "thesis").touch()
        sign(folder, OURS)
    sign(tmp_path / "disk", OURS)
    for name, target in (("work", work), ("home", home), ("all", tmp_path / "disk")):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = sorted(tmp_path.rglob("*"))
    for out, word in (
        (home, "home"),
        (tmp_path / "home", "home"),
        (work, "current"),
        (tmp_path / "all", "current"),
        (".", "current"),
        ("/", "current"),
    ):
        with pytest.raises(ElasticError, match=f"contains the {word} folder"):
            write(out, force=True)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("Entry", (), {"pw_dir": str(home)}))
    with pytest.raises(ElasticError, match="contains the home folder"):
        write(home, force=True)  # $HOME is not what the system says
    assert sorted(tmp_path.rglob("*")) == before

    def unknown(_):
        raise KeyError  # as in a container that runs under any number as its user

    monkeypatch.setattr("pwd.getpwuid", unknown)
    write(tmp_path / "out")
    write(tmp_path / "out", force=True)


def test_force_replaces_nothing_that_holds_a_mount_point(tmp_path, monkeypatch):
    with pytest.raises(ElasticError, match="proc: is a mount point, which cannot be replaced"):
        check_output("/proc", True)
    write(tmp_path / "out")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "out" / "sub"))
    with pytest.raises(ElasticError, match="out: contains sub@, which is not a part of a test output"):
        write(tmp_path / "out", force=True)
    assert names(tmp_path / "out") == [MARK, "sub"]


def test_a_deleted_current_folder_is_one_line(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    work.rmdir()
    with pytest.raises(ElasticError, match="the current folder was deleted"):
        write("out")
    write(tmp_path / "out")  # which needs none
    write(tmp_path / "out", force=True)
    assert names(tmp_path) == ["out"]


def test_a_file_replaces_regular_files_only(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "new", False)
    check_file(tmp_path / "file", True)
    for name in ("file", "dangling"):
        with pytest.raises(ElasticError, match=f"{name}: already exists; --force replaces it"):
            check_file(tmp_path / name, False)
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(ElasticError, match=f"{name}: is not a regular file"):
            check_file(tmp_path / name, True)
    with pytest.raises(ElasticError, match="is a folder; name a file"):
        check_file(tmp_path / "folder", True)
    os.link(tmp_path / "file", tmp_path / "twin")  # bind mounts, and file systems that do not tell cases apart
    for name in ("link", "twin"):
        with pytest.raises(ElasticError, match=rf"file: is .*{name}, which is an input"):
            check_file(tmp_path / "file", True, tmp_path / name)


def test_a_link_on_the_way_to_an_input_is_not_replaced(tmp_path):
    write(tmp_path / "disk")
    write(tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "disk")
    with pytest.raises(ElasticError, match=r"out: contains .*sub, which is an input"):
        check_apart(tmp_path / "out", tmp_path / "out" / "link" / "sub")


@settings(max_examples=200)
@given(data=st.data())
def test_apart_is_what_it_says(data):
    """Against the plain definition on resolved paths, in a small tree with links between its folders."""
    with scratch() as place:
        place = Path(os.path.realpath(place))
        parts = st.lists(st.sampled_from("ab"), min_size=1, max_size=3)
        for way in data.draw(st.lists(parts, max_size=4)):
            with contextlib.suppress(OSError):
                place.joinpath(*way).mkdir(parents=True)
        for way, target in data.draw(st.lists(st.tuples(parts, parts), max_size=3)):
            with contextlib.suppress(OSError):
                place.joinpath(*way).symlink_to(place.joinpath(*target))
        out, source = (place.joinpath(*data.draw(parts)) for _ in range(2))
        try:
            here, there = out.resolve(), source.resolve()
        except (RuntimeError, OSError):  # links in a circle
            return
        overlap = here == there or here in there.parents or there in here.parents
        try:
            check_apart(out, source)
        except ElasticError:
            # the place of a link counts, too, not only where it leads
            assert overlap or any(p.is_symlink() for p in (out, source, *out.parents, *source.parents))
        else:
            assert not overlap
