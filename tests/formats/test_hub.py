# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models by their ids on the hub, with the real huggingface_hub and a hub on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import check_repo, is_repo, local_folder, repo_of
from tests.shapes import PARENT
from tests.slicing.helpers import SMALL, contents, random_values, write

from .hub_server import Hub, serve

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "family"
    write(place, PARENT, {"small": SMALL}, tensors=random_values(PARENT))
    (place / "tokenizer.json").write_text("{}")
    return place


@pytest.fixture
def hub(family: Path) -> Iterator[Hub]:
    with serve() as hub:
        hub.models["owner/family"] = contents(family) | {"run.py": b"raise SystemExit(9)", "deep/config.json": b"{}"}
        yield hub


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """The program in a folder of its own: the library reads its settings when it is imported."""
    (tmp_path / "here").mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    clean |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_test"}
    clean |= {"HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "120"}

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-W", "ignore", "-m", "nemo_elastic", *map(str, arguments)]
        place = {"PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))}
        return subprocess.run(words, cwd=tmp_path / "here", env=clean | place | more, capture_output=True, text=True)

    return call


@needs_library
def test_a_model_by_its_id(hub: Hub, run: Run, family: Path, tmp_path: Path) -> None:
    done = run("inspect", "owner/family")
    assert done.returncode == 0, done.stderr
    assert "small" in done.stdout and "model.safetensors" not in hub.fetched  # shapes need no weights
    done = run("slice", "owner/family", "--member", "small", "--out", "cut")
    assert done.returncode == 0, done.stderr
    slice_checkpoint(family, tmp_path / "wanted", member="small")
    assert contents(tmp_path / "here" / "cut") == contents(tmp_path / "wanted")
    assert "run.py" not in hub.fetched and "deep/config.json" not in hub.fetched
    hub.refuse = 503  # what was fetched stays
    done = run("slice", "owner/family", "--member", "small", "--out", "again", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr


@needs_library
def test_a_path_wins(hub: Hub, run: Run, family: Path, tmp_path: Path) -> None:
    (tmp_path / "here" / "owner").mkdir()
    done = run("inspect", "owner/family")
    assert (done.returncode, done.stderr) == (2, "error: owner/family: no such folder\n")
    os.symlink(family, tmp_path / "here" / "owner" / "family")
    assert run("inspect", "owner/family").returncode == 0 and hub.fetched == []


@needs_library
def test_what_the_hub_does_not_give_is_one_line(hub: Hub, run: Run, tmp_path: Path) -> None:
    start = "no such folder, and the hub does not give a model of that id ("
    for arguments, more in ((("inspect", "owner/none"), {}), (("inspect", "owner/new"), {"HF_HUB_OFFLINE": "1"})):
        done = run(*arguments, **more)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {arguments[1]}: {start}"), done.stderr
        assert len(done.stderr.splitlines()) == 1
    hub.models["owner/other"] = {"config.json": b'{"model_type": "llama"}'}
    done = run("slice", "owner/other", "--ratio", "1", "--out", "cut")
    assert done.returncode == 2 and "only a Nemotron-H can be read" in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ElasticError, match=r"^owner/name: no such folder; to ask the hub, pip install huggingface_hub$"
    ):
        local_folder("owner/name")
    for path in ("name", "/owner/name", "a/b/c", "../a", "a--b/c", "owner/name.git", str(tmp_path)):
        assert local_folder(path) == Path(path)


def test_ids() -> None:
    assert check_repo("push", "nvidia/NVIDIA-Nemotron-Nano-9B-v2") and is_repo("a/b_1.5")
    for other in ("a", "a/b/c", "/a", "a/", ".a/b", "a/b.", "a/b-", "a b/c", "a/b\n", "a/" + "b" * 100, None):
        assert not is_repo(other)
    cached = Path("/x/models--owner--a-name/snapshots/abc")
    assert repo_of(cached) == "owner/a-name" and repo_of(Path("/x/models--owner/y/z")) is None
