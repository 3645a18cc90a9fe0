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
from nemo_elastic.io import atomic as files
from nemo_elastic.io import outputs
from nemo_elastic.io.atomic import atomic_dir, atomic_write
from nemo_elastic.io.outputs import MARK, check_apart, check_file, check_output, is_ours, sign
from tests.io.test_atomic import names, write
from tests.slicing.helpers import scratch


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
    told = "already exists, and nemo-elastic did not write it; name another" if kind == "file" else (
        "already exists; --force replaces it"
    )  # fmt: skip
    with pytest.raises(ElasticError, match=f"out: {told}"):
        write(out)
    assert names(tmp_path) == ["out"]
    assert kind != "folder" or (out / "sub" / "file").read_text() == "old"


@pytest.mark.parametrize("kind", ["folder", "empty folder", "link", "dangling link"])
def test_force_replaces_what_is_ours(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    write(other, "kept")
    if kind == "folder":
        write(out, "old")
        (out / "stale").write_text("x")
    elif kind == "empty folder":
        out.mkdir()
        (out / ".DS_Store").touch()  # nobody's file
    else:
        out.symlink_to(other if kind == "link" else "nowhere")
    write(out, force=True)
    assert names(tmp_path) == ["other", "out"] and names(out) == [MARK, "sub"]
    assert (out / "sub" / "file").read_text() == "new" and not out.is_symlink()
    assert (other / "sub" / "file").read_text() == "kept"


@pytest.mark.parametrize("kind", ["folder", "file", "link to a folder", "link to a file", "pipe", "damaged mark"])
def test_force_does_not_replace_what_is_not_ours(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "thesis").write_text("x")
    if kind == "folder":
        os.rename(other, out)
    elif kind == "file":
        out.write_text("thesis")
    elif kind == "pipe":
        os.mkfifo(out)
    elif kind == "damaged mark":
        out.mkdir()
        (out / MARK).write_text("{}")
    else:
        out.symlink_to(other if kind.endswith("folder") else other / "thesis")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ElasticError, match="out: nemo-elastic did not write it, so --force does not replace it"):
        with atomic_dir(out, force=True):
            pytest.fail("the block must not run")
    with pytest.raises(ElasticError, match="out: already exists, and nemo-elastic did not write it"):
        write(out)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_became_foreign_while_the_block_ran_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(ElasticError, match="nemo-elastic did not write it"), atomic_dir(out, force=True):
        (out / MARK).unlink()
    assert names(tmp_path) == ["out"] and (out / "sub" / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "text", "ours"),
    [
        ("elastic.json", '{"version": 1, "parent": {}, "axes": {}, "members": {}}', True),
        ("elastic_member.json", '{"version": 1, "parent": {}, "subnet": {}}', True),
        ("ranking.json", '{"version": 1, "digest": "", "parent": {}, "depth": []}', True),
        ("data.json", '{"version": 1, "vocab_size": 1, "corpus": {}, "splits": {}}', True),
        ("metrics.json", '{"version": 1, "seconds": {}, "bigram_loss": 1, "members": [], "targets": {}}', True),
        ("report.html", "<p>\n<footer>Made by nemo-elastic 0.1.0 from the files of the run alone.</footer>\n", True),
        ("data.json", '{"version": 1, "users": []}', False),
        ("data.json", "[" * 100_000, False),
        ("metrics.json", "[1]", False),
        ("report.html", "<footer>Made by pytest-html</footer>", False),
        ("config.json", '{"model_type": "nemotron_h"}', False),
    ],
)
def test_a_folder_is_known_by_its_manifest(tmp_path, name, text, ours):
    """Also one of release 0.1, which signed nothing."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    assert is_ours(tmp_path / "out") is ours
    assert is_ours(tmp_path) is ours  # several members: each in a folder of its own
    (tmp_path / "thesis").touch()
    assert is_ours(tmp_path) is False


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


def test_force_never_replaces_them_under_another_name(tmp_path, monkeypatch):
    """A home behind a link is as common as a folder of work behind one; all of them carry our mark here."""
    work, home = tmp_path / "disk" / "work", tmp_path / "disk" / "home"
    for folder in (work, home):
        folder.mkdir(parents=True)
        (folder / "thesis").touch()
        sign(folder)
    sign(tmp_path / "disk")
    for name, target in (("work", work), ("home", home), ("all", tmp_path / "disk")):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = sorted(tmp_path.rglob("*"))
    for out, word in (
        (home, "home"),
        (tmp_path / "home", "home"),
        (tmp_path / "all" / "home", "home"),
        (work, "current"),
        (tmp_path / "work", "current"),
        (tmp_path / "all", "current"),
        (tmp_path / "disk", "current"),
    ):
        with pytest.raises(ElasticError, match=f"holds the {word} folder"):
            write(out, force=True)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("Entry", (), {"pw_dir": str(home)}))
    with pytest.raises(ElasticError, match="holds the home folder"):
        write(home, force=True)  # $HOME is not what the system says
    assert sorted(tmp_path.rglob("*")) == before


def test_force_replaces_nothing_that_holds_a_mount_point(tmp_path, monkeypatch):
    """`tests/slicing/test_faults.py` mounts the real thing."""
    assert {Path("/"), Path("/proc")} <= set(outputs._mounts())
    with pytest.raises(ElasticError, match="proc: is a mount point, which cannot be replaced"):
        check_output("/proc", True)
    write(tmp_path / "out")
    monkeypatch.setattr(outputs, "_mounts", lambda: iter([tmp_path / "out" / "sub"]))
    with pytest.raises(ElasticError, match="out: holds a mount point and is never replaced"):
        write(tmp_path / "out", force=True)
    assert names(tmp_path / "out") == [MARK, "sub"]


def test_a_deleted_current_folder_is_one_line(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    work.rmdir()
    for write_it in (lambda: write("out"), lambda: atomic_write("out", "x"), lambda: check_apart(tmp_path, "in")):
        with pytest.raises(ElasticError, match="the current folder was deleted; change into one that exists"):
            write_it()
    write(tmp_path / "out")  # which needs none
    write(tmp_path / "out", force=True)
    assert names(tmp_path) == ["out"]


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
    for out in (
        source,
        tmp_path / "link",
        ".",
        tmp_path / "link" / "..",
    ):
        word = "holds" if str(out).endswith("..") else "is"
        with pytest.raises(ElasticError, match=f"{os.path.abspath(out)}: {word} .*, which is read; name another"):
            check_apart(out, tmp_path / "runs" / "family")
    for out in (tmp_path / "runs" / "family2", tmp_path / "new" / "cut", "../cut"):
        check_apart(out, source)


def test_a_home_that_is_not_known_is_no_trouble(tmp_path, monkeypatch):
    """As in a container that runs under any number as its user."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(RuntimeError):
        files.Path.home()
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_file_replaces_regular_files_only(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "new", False)
    check_file(tmp_path / "file", True)
    for name in ("file", "link", "dangling", "pipe"):
        with pytest.raises(ElasticError, match=f"{name}: already exists; --force replaces it"):
            check_file(tmp_path / name, False)
    for path in (tmp_path / "link", tmp_path / "dangling", tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ElasticError, match=f"{path}: is no regular file, so --force does not replace it"):
            check_file(path, True)
    with pytest.raises(ElasticError, match="is a folder; name a file"):
        check_file(tmp_path / "folder", True)
    with pytest.raises(ElasticError, match=r"file: is .*link, which is read"):
        check_file(tmp_path / "file", True, tmp_path / "link")


def test_a_new_file_never_replaces_one_that_appears_meanwhile(tmp_path):
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(ElasticError, match="file: another process has written it just now; it is left as it is"):
        atomic_write(tmp_path / "file", "ours", replace=False)
    assert (tmp_path / "file").read_text() == "theirs" and names(tmp_path) == ["file"]
    atomic_write(tmp_path / "new", "ours", replace=False)
    assert (tmp_path / "new").read_text() == "ours" and names(tmp_path) == ["file", "new"]


def test_another_name_of_the_same_file_is_no_other_file(tmp_path):
    """Hard links here; bind mounts and file systems that do not tell cases apart answer alike."""
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ElasticError, match=r"b: is .*a, which is read"):
        check_apart(tmp_path / "b", tmp_path / "a")


def test_a_link_on_the_way_to_an_input_is_not_replaced(tmp_path):
    write(tmp_path / "disk")
    write(tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "disk")
    with pytest.raises(ElasticError, match=r"out: holds .*sub, which is read"):
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
