# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which extra brings a package that is not installed, in one line."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import PackageNotFoundError, PathDistribution
from pathlib import Path

import pytest

from nemo_elastic.extras import EXTRAS, installing, missing, require


@pytest.mark.parametrize(
    ("direct", "what"),
    [
        (None, "'nemo-elastic[runtime]'"),
        ({"url": "file:///home/me/the%20clone", "dir_info": {}}, "'/home/me/the clone[runtime]'"),
        ({"url": "file:///clone", "dir_info": {"editable": True}}, "-e '/clone[runtime]'"),
        (
            {"url": "https://host/n.git", "vcs_info": {"vcs": "git", "commit_id": "a1"}},
            "'nemo-elastic[runtime] @ git+https://host/n.git@a1'",
        ),
        (PackageNotFoundError, "'.[runtime]'"),
    ],
)
def test_an_extra_comes_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, direct: object, what: str
) -> None:
    def results(name: str) -> PathDistribution:
        assert name == "nemo-elastic"
        if direct is PackageNotFoundError:
            raise PackageNotFoundError
        if direct is not None:
            (tmp_path / "direct_url.json").write_text(json.dumps(direct), encoding="utf-8")
        return PathDistribution(tmp_path)

    monkeypatch.setattr("nemo_elastic.extras.distribution", results)
    installing.cache_clear()
    assert installing("runtime") == f"pip install {what}"
    installing.cache_clear()


def test_what_both_hosts_bring_comes_with_the_host_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
    for there, extra in (("megatron.bridge", "bridge"), ("nemo", "nemo")):
        monkeypatch.setattr("nemo_elastic.extras.has", lambda package, there=there: package == there)
        assert missing(error) == f"pyarrow is not installed; {installing(extra)} brings it"
    for name in ("nowhere", None):
        assert missing(ModuleNotFoundError("", name=name)) is None


def test_a_host_is_not_installed_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_elastic.extras.has", lambda package: package == "nemo")
    for package, apart in (("megatron.bridge", True), ("vllm", True), ("gguf", False)):
        line = missing(ModuleNotFoundError(name=package))
        assert line is not None and ("environment without nemo" in line) == apart


def test_every_extra_that_is_reported_can_be_installed() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    offered = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL)
    assert offered and set(EXTRAS.values()) <= set(re.findall(r"^(\w+) = ", offered[1], re.MULTILINE))


def test_a_package_is_required_without_being_imported() -> None:
    sys.modules.pop("this", None)
    require("this")
    assert "this" not in sys.modules
