# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic specialize`, from its arguments to a shape that `slice` cuts and the family knows by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nemo_elastic import load_family
from nemo_elastic.cli import cmd_specialize
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.core.sizes import path
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.search import trained_space
from nemo_elastic.slicing.family_folder import write_family
from tests.shapes import short_family
from tests.slicing.helpers import run

FAMILY = short_family(400)
SHAPE = FAMILY.parent
TOKENS = torch.arange(40).view(2, 20)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Less is read and tried than a user's task needs."""
    monkeypatch.setattr(cmd_specialize, "LENGTH", 32)
    monkeypatch.setattr(cmd_specialize, "TOKENS", 600)
    monkeypatch.setattr(cmd_specialize, "CANDIDATES", 8)


@pytest.fixture
def folder(tmp_path, data):
    """A family of random weights, in a folder of its own: what it says is nothing, but shapes differ in it."""
    state = NemotronH.random(SHAPE, seed=4).state_dict()
    return write_family(tmp_path / "family", SHAPE, state, FAMILY, data.tokenizer_dir)


def found_in(out: str) -> Subnet:
    return Subnet.from_json(json.loads(out)["subnet"], SHAPE)


def test_the_shape_is_cut_as_the_runtime_runs_it(folder, data, tmp_path):
    shape = tmp_path / "task.json"
    code, out, err = run("specialize", folder, "--data", data.path, "--params", 14_776, "--out", shape, "--json")
    assert code == 0 and not err
    report, family = json.loads(out), Family.load(folder)
    subnet, limit = found_in(out), 14_776
    start = path(family)[path(family).fit(limit)]
    assert report["parameters"] == parameters(SHAPE, subnet) <= limit and report["budget"] == {"params": limit}
    assert subnet in trained_space(family, start) and subnet <= SHAPE.full
    figures = report["specialized"]
    assert Subnet.from_json(figures["path"]["subnet"], SHAPE) == start
    assert figures["path"]["searched"] >= figures["found"]["searched"] and figures["trials"] <= 8
    chosen = figures["found" if figures["wins"] else "path"]["subnet"]
    assert chosen == report["subnet"] and not figures["one_document"] and figures["held_out_documents"] > 2
    assert figures["gain"]["low"] <= figures["gain"]["mean"] <= figures["gain"]["high"]
    assert json.loads(shape.read_text()) == {k: v for k, v in report.items() if k not in ("out", "extra", "request")}
    code, _, _ = run("slice", folder, "--subnet", shape, "--out", tmp_path / "cut")
    cut, own = load_family(tmp_path / "cut").select(), load_family(folder).select(subnet)
    assert code == 0 and cut.subnet == subnet and torch.allclose(cut(TOKENS), own(TOKENS), atol=1e-5)


def test_a_name_of_its_own_in_the_family(folder, data, tmp_path):
    before = (folder / FILE).read_bytes()
    line = ("specialize", folder, "--data", data.path, "--params", 13_000)
    code, out, _ = run(*line, "--add", "code", "--json")
    assert code == 0 and Family.load(folder).member("code").subnet == found_in(out)
    assert Family.load(folder).member("code").budget == {"params": 13_000}
    report = json.loads((folder / FILE).read_text())
    del report["extras"]
    assert report == json.loads(before)
    # every command that takes a member's name takes it
    assert run("slice", folder, "--member", "code", "--out", tmp_path / "cut")[0] == 0
    family = load_family(folder)
    cut = load_family(tmp_path / "cut").select("code")
    assert torch.allclose(cut(TOKENS), family.select("code")(TOKENS), atol=1e-5)
    assert run("slice", folder, "--member", "code", "--member", "small", "--out", tmp_path / "cuts")[0] == 0
    code, out, _ = run("inspect", folder)
    assert code == 0 and "code is an extra shape" in out and "small is an extra" not in out
    report = json.loads(run("inspect", folder, "--json")[1])
    assert list(report["members"]) == ["big", "small"] and list(report["extras"]) == ["code"]
    code, out, _ = run("verify", folder, "--forward")
    assert code == 0 and "code: counts" in out and "code: cut = masked" in out and "code: nested" not in out
    code, _, err = run(*line, "--add", "code")
    assert code == 2 and "extras.code: already there; --force replaces it" in err
    assert run(*line, "--add", "code", "--force")[0] == 0


def test_one_document_has_no_interval(folder, tmp_path):
    """Text is cut by the family's own tokenizer."""
    rng, words = np.random.default_rng(0), ("alpha", "beta", "gamma", "delta", "return", "import")
    (tmp_path / "task.txt").write_text(" ".join(rng.choice(words, 600)))
    line = ("specialize", folder, "--data", tmp_path / "task.txt", "--params", 13_000, "--out", tmp_path / "s.json")
    code, out, err = run(*line)
    assert code == 0 and "start: largest shape within 13,000 parameters" in out, err
    figures = json.loads((tmp_path / "s.json").read_text())["specialized"]
    assert figures["one_document"] and figures["gain"]["low"] is None and not figures["wins"]


def test_a_name_that_was_taken_meanwhile_stays(folder, data, monkeypatch):
    """The name was free when the search began."""
    import nemo_elastic.evaluation as evaluation

    searched = evaluation.specialize

    def meanwhile(*arguments, **options):
        actual = searched(*arguments, **options)
        Family.load(folder).with_extra("code", FAMILY.member("small").subnet).save(folder)
        return actual

    monkeypatch.setattr(evaluation, "specialize", meanwhile)
    code, _, err = run("specialize", folder, "--data", data.path, "--params", 13_000, "--add", "code")
    assert code == 2 and err.endswith("error: extras.code: already there; --force replaces it\n")
    assert Family.load(folder).member("code").subnet == FAMILY.member("small").subnet
