# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Links in a folder from elsewhere: none brings a file of the reader's into what is read, written or said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nemo_elastic import load_family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.writing import COMPANIONS
from nemo_elastic.io.bounded import check_inside

from .helpers import contents

FILES = {
    "family": ["config.json", "elastic.json", "elastic_checksums.json", "model.safetensors", *COMPANIONS],
    "sharded": ["model.safetensors.index.json", "model-00001-of-00004.safetensors"],
    "member": ["elastic_member.json", "config.json"],
}
SECRET = "a secret of mine"


def link(source: Path, name: str, target: Path) -> None:
    """Put a file elsewhere and a link to it in its place, so that nothing but the link is wrong."""
    if (source / name).exists():
        shutil.move(source / name, target)
    else:
        target.write_text(f'{{"x": "{SECRET}"}}')
    (source / name).symlink_to(target)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names])
def test_no_file_of_a_folder_is_a_link_out_of_it(originals, tmp_path, run, kind, name):
    source = Path(shutil.copytree(originals / kind, tmp_path / kind))
    link(source, name, tmp_path / "elsewhere")
    before = contents(tmp_path)
    code, out, err = run("slice", source, "--budget", "small", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and SECRET not in err
    assert f"{name}: is a link out of its folder, which is not followed" in err
    if name not in COMPANIONS:  # these are read by what copies them alone
        assert run("verify", source)[::2] == (2, err)
        with pytest.raises(ElasticError, match="is a link out of its folder"):
            load_family(source)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json"])
def test_a_link_to_another_file_of_the_folder_is_that_file(originals, tmp_path, run, name):
    source = Path(shutil.copytree(originals / "family", tmp_path / "family"))
    (source / "real").write_text("{}")
    (source / name).symlink_to("real")
    os.symlink(source, tmp_path / "way")
    for i, way in enumerate((source, tmp_path / "way")):
        assert run("slice", way, "--budget", "small", "--out", tmp_path / str(i))[0] == 0
        assert (tmp_path / str(i) / name).read_text() == "{}" and not (tmp_path / str(i) / name).is_symlink()


def test_what_only_looks_like_the_hubs_cache(tmp_path):
    """Blobs belong to snapshots beside them; what is a link again, or lies elsewhere, does not."""
    cache = tmp_path / "models--x"
    snapshot = cache / "snapshots" / "0123"
    for folder in (snapshot, cache / "blobs", cache / "refs", tmp_path / "models--y" / "blobs", tmp_path / "plain"):
        folder.mkdir(parents=True)
    (tmp_path / "secret").touch()
    for target in ("blobs/1", "refs/1", "../models--y/blobs/1", "../secret"):
        (cache / target).touch()
    (cache / "blobs" / "2").symlink_to("../../secret")
    for i, (target, fine) in enumerate({"blobs/1": True, "blobs/2": False, "refs/1": False, "snapshots/0123/0": True,
                                        "../models--y/blobs/1": False, "../secret": False}.items()):  # fmt: skip
        path = snapshot / str(i)
        path.symlink_to(f"../../{target}")
        if fine:
            assert check_inside(path) == path
        else:
            with pytest.raises(ElasticError, match="is a link out of its folder"):
                check_inside(path)
    (tmp_path / "plain" / "x").symlink_to("../models--x/blobs/1")
    with pytest.raises(ElasticError, match="is a link out of its folder"):
        check_inside(tmp_path / "plain" / "x")
    # a folder of blobs that is itself a link
    shutil.rmtree(cache / "blobs")
    (cache / "blobs").symlink_to(tmp_path)
    (snapshot / "9").symlink_to("../../blobs/secret")
    with pytest.raises(ElasticError, match="is a link out of its folder"):
        check_inside(snapshot / "9")
