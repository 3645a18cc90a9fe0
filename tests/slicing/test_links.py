# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Links in a folder: followed to regular files, as shared file systems and the hub's cache use them; never copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nemo_elastic import load_family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.writing import COMPANIONS

from .helpers import contents

FILES = {
    "family": ["config.json", "elastic.json", "elastic_checksums.json", "model.safetensors"],
    "sharded": ["model.safetensors.index.json", "model-00001-of-00004.safetensors"],
    "member": ["elastic_member.json", "config.json"],
}
SECRET = "a secret of mine"


@pytest.mark.parametrize("kind", ["family", "sharded"])
def test_a_folder_of_links_is_cut_as_the_folder_is(originals, tmp_path, run, kind):
    source = Path(shutil.copytree(originals / kind, tmp_path / kind))
    for name in COMPANIONS:
        if not (source / name).exists():
            (source / name).write_text("{}")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in source.iterdir():
        (linked / path.name).symlink_to(path)
    for folder in (source, linked):
        assert run("slice", folder, "--budget", "small", "--out", tmp_path / f"{folder.name} cut")[0] == 0
    cut = tmp_path / "linked cut"
    assert not any(path.is_symlink() for path in cut.rglob("*"))
    names = {path.name for path in cut.iterdir()} - {"README.md", "elastic_member.json"}  # which name their source
    assert len(names) > 3
    for name in names:
        assert (cut / name).read_bytes() == (tmp_path / f"{kind} cut" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [(kind, name, what) for kind, names in FILES.items() for name in names for what in ("text", "pipe")
     if (name, what) != ("elastic_checksums.json", "pipe")],  # a folder may have none
)  # fmt: skip
def test_a_link_to_something_else_is_one_line_that_quotes_none_of_it(originals, tmp_path, run, kind, name, what):
    source = Path(shutil.copytree(originals / kind, tmp_path / kind))
    target = tmp_path / "elsewhere"
    if what == "pipe":
        os.mkfifo(target)
    else:
        target.write_text(f"{SECRET}\n" * 3)
    (source / name).unlink()
    (source / name).symlink_to(target)
    cut = ("slice", source, "--budget", "small", "--out", tmp_path / "out")
    code, out, err = run(*(("verify", source) if name == "elastic_checksums.json" else cut))
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and SECRET not in err
    assert name in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE"])
def test_what_is_copied_along_is_no_pipe(originals, tmp_path, run, name):
    source = Path(shutil.copytree(originals / "family", tmp_path / "family"))
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to("/dev/zero")
    before = contents(source)
    assert run("slice", source, "--budget", "small", "--out", tmp_path / "out")[0] in (0, 2)
    assert contents(source) == before and not (tmp_path / "out" / name).exists()


def test_weights_that_are_a_link_to_a_device_are_not_read(originals, tmp_path):
    source = Path(shutil.copytree(originals / "family", tmp_path / "family"))
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(ElasticError, match="has no weights"):
        load_family(source)
