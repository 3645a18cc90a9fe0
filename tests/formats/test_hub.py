# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models by their ids on the hub, with the real huggingface_hub and what it has fetched before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import check_repo, is_repo, local_folder, repo_of
from tests.shapes import PARENT
from tests.slicing.helpers import SMALL, contents, random_values, write
from tests.workers import ROOT

SHA = "0" * 40


def test_a_model_by_its_id(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = tmp_path / "home" / "hub" / "models--owner--family"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(SHA)
    family = write(tmp_path / "family", PARENT, {"small": SMALL}, tensors=random_values(PARENT))
    shutil.copytree(family, model / "snapshots" / SHA)
    (tmp_path / "here").mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        """The program in a process of its own: the library reads its settings when it is imported."""
        env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "ignore", "-m", "nemo_elastic", *words]
        return subprocess.run(command, cwd=tmp_path / "here", env=env, capture_output=True, text=True)

    done = run("slice", "owner/family", "--member", "small", "--out", "cut")
    assert done.returncode == 0, done.stderr
    slice_checkpoint(family, tmp_path / "wanted", member="small")
    assert contents(tmp_path / "here" / "cut") == contents(tmp_path / "wanted")
    done = run("inspect", "owner/none")
    assert done.returncode == 2 and done.stderr.startswith("error: owner/none: no such folder, and the hub")
    assert len(done.stderr.splitlines()) == 1


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shapes need no weights, and nobody needs code or what is deeper."""
    hub = pytest.importorskip("huggingface_hub")
    asked: list[dict[str, list[str]]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **more: asked.append(more) or tmp_path)
    assert local_folder("owner/family") == local_folder("owner/family", weights=False) == tmp_path
    whole, shapes = (more["allow_patterns"] for more in asked)
    assert [any(fnmatch("model.safetensors", p) for p in patterns) for patterns in (whole, shapes)] == [True, False]
    assert not any(fnmatch("run.py", p) for p in whole) and any(fnmatch("config.json", p) for p in shapes)
    assert all(more["ignore_patterns"] == ["*/*"] for more in asked)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ElasticError, match=r"^owner/name: no such folder; to ask the hub, pip install huggingface_hub$"
    ):
        local_folder("owner/name")
    (tmp_path / "owner").mkdir()  # a path into a folder that is there wins
    for path in ("owner/name", "name", "../a", str(tmp_path)):
        assert local_folder(path) == Path(path)


def test_ids() -> None:
    assert check_repo("push", "nvidia/NVIDIA-Nemotron-Nano-9B-v2") and is_repo("a/b_1.5")
    for other in ("a", "a/b/c", "/a", "a/", ".a/b", "a/b.", "a/b-", "a b/c", "a/b\n", "a/" + "b" * 100, None):
        assert not is_repo(other)
    cached = Path("/x/models--owner--a-name/snapshots/abc")
    assert repo_of(cached) == "owner/a-name" and repo_of(Path("/x/models--owner/y/z")) is None
