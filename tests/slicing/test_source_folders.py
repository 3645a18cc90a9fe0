# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders as they come: links, pipes, odd names; nothing is read outside of a folder, and no link is copied.

Broken contents are in `tests/formats/hf`, and the lines of the commands in `tests/bad_input`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf import reading, writing
from tests.shapes import PARENT

from .helpers import SMALL, contents, write

OTHER = replace(PARENT, vocab=PARENT.vocab + 8)

SINGLE = "model.safetensors"
SHARD = "model-00001-of-00004.safetensors"
SECRET = "a secret of mine"


@pytest.fixture
def source(originals, tmp_path):
    return Path(shutil.copytree(originals / "family", tmp_path / "family"))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_layout_of_the_hubs_cache(originals, tmp_path, run):
    """models--x/snapshots/REVISION/* are links into models--x/blobs: they lead out of their folder, and may."""
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted((originals / "sharded").iterdir())):
        shutil.copy(path, blobs / str(i))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(i)))
    (tmp_path / "link").symlink_to(snapshot)
    slice_checkpoint(originals / "sharded", tmp_path / "expect", member="small")
    for i, folder in enumerate((snapshot, tmp_path / "link")):
        assert run("verify", folder, "--no-forward")[0] == 0
        assert run("slice", folder, "--member", "small", "--out", tmp_path / str(i))[0] == 0
        assert contents(tmp_path / str(i)) == contents(tmp_path / "expect")
        assert not any(path.is_symlink() for path in (tmp_path / str(i)).iterdir())


def test_what_goes_along_is_copied_by_name_alone(source, tmp_path, run):
    """A tokenizer may be a link within its folder. What is no file, or has another name, stays behind."""
    (tmp_path / "secret").write_text("s")
    (source / "secret").symlink_to(tmp_path / "secret")
    (source / "sub").mkdir()
    (source / "sub" / "tokenizer.json").write_text("{}")
    (source / "vocab.json").mkdir()
    (source / "merges.txt").symlink_to("gone")
    (source / "LICENSE").symlink_to("/dev/zero")
    os.mkfifo(source / "tokenizer.model")
    (source / "tokenizer.json").symlink_to(source / "sub" / "tokenizer.json")
    assert run("slice", source, "--member", "small", "--out", tmp_path / "cut")[0] == 0
    left = set(names(source)) & set(names(tmp_path / "cut"))
    assert not left & {"secret", "sub", "vocab.json", "merges.txt", "tokenizer.model", "LICENSE"}
    assert (tmp_path / "cut" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
@pytest.mark.parametrize("cache", [False, True])
def test_what_goes_along_is_no_link_out_of_the_folder(source, tmp_path, run, name, cache):
    """What is cut is published: a link in a folder from elsewhere must not take a file of mine along."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "mine").write_text(f'{{"a": "{SECRET}"}}')
    folder = tmp_path / "models--x" / "snapshots" / "0123" if cache else source
    if cache:
        shutil.copytree(source, folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "blobs" / "mine")
    code, _, err = run("slice", folder, "--member", "small", "--out", tmp_path / "cut")
    assert code == 2 and err.startswith(f"error: {folder / name}: ") and SECRET not in err
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize(
    ("module", "name"), [(reading, "read_json"), (reading, "open_shard"), (writing, "_write_others")]
)
@pytest.mark.parametrize("other", ["the same shape", "another"])
@pytest.mark.parametrize("command", ["slice --member small", "quantize --to fp8 --layout compressed-tensors"])
def test_a_folder_that_is_replaced_while_it_is_read(
    originals, tmp_path, run, monkeypatch, module, name, other, command
):
    """Nothing is cut of two trainings, and no error blames what a mixture of two shapes looks like."""
    source = Path(shutil.copytree(originals / "sharded", tmp_path / "family"))
    parent, small = (PARENT, SMALL) if other == "the same shape" else (OTHER, OTHER.uniform(ffn=8))
    write(tmp_path / "new", parent, {"small": small}, shard_bytes=8000)
    first = getattr(module, name)

    def then_replaced(*arguments, **options):
        out = first(*arguments, **options)
        if (tmp_path / "new").exists():
            os.rename(source, tmp_path / "old")
            os.rename(tmp_path / "new", source)
        return out

    monkeypatch.setattr(module, name, then_replaced)
    code, _, err = run(*command.split(), source, "--out", tmp_path / "cut")
    assert code == 2 and err.startswith(f"error: {source}: another process replaced this folder")
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize(
    ("kind", "name", "to", "says"),
    [
        ("family", "config.json", "text", "config.json: not valid JSON"),
        ("sharded", SHARD, "pipe", f"{SHARD}: "),
        ("family", SINGLE, "/dev/zero", "has no weights"),
        ("sharded", SHARD, SHARD, "symbolic links"),
    ],
)
def test_a_link_to_something_else_is_one_line_that_quotes_none_of_it(originals, tmp_path, run, kind, name, to, says):
    source = Path(shutil.copytree(originals / kind, tmp_path / kind))
    (tmp_path / "text").write_text(f"{SECRET}\n" * 3)
    os.mkfifo(tmp_path / "pipe")
    (source / name).unlink()
    (source / name).symlink_to(tmp_path / to if to in ("text", "pipe") else to)
    cut = ("slice", source, "--member", "small", "--out", tmp_path / "out")
    code, out, err = run(*cut)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and SECRET not in err
    assert says in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["[bold] x[/y]", "a\x1b[2J\u202eb", "-x"])
def test_a_folder_of_an_odd_name_is_a_folder(originals, tmp_path, run, name):
    """Square brackets are markup where tables are printed, also one that closes in the next folder."""
    source = Path(shutil.copytree(originals / "family", tmp_path / name / "family"))
    for command in (("inspect", source), ("verify", source, "--no-forward")):
        code, out, err = run(*command)
        assert code == 0 and out.replace("\n", "").isprintable() and err == ""
    assert run("slice", source, "--member", "small", "--out", tmp_path / name / "cut")[0] == 0
    assert open_source(tmp_path / name / "cut").subnet == SMALL
