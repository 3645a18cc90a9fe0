# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic specialize`, from its arguments to a shape that `slice` cuts and the family knows by name."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from nemo_elastic import load_family
from nemo_elastic.cli import cmd_specialize
from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.core.sizes import path
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.search import trained_space
from nemo_elastic.slicing.family_folder import add_extra, write_family
from tests.shapes import short_family
from tests.slicing.helpers import run
from tests.texts import spoiled
from tests.workers import environment

FAMILY = short_family(400)
SHAPE = FAMILY.parent
QUICK = ("--seq-length", 32)
TOKENS = torch.arange(40).view(2, 20)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Less is read and tried than a user's task needs."""
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
    code, out, err = run("specialize", folder, "--data", data.path, "--ratio", 0.9, *QUICK, "--out", shape, "--json")
    assert code == 0 and not err
    report, family = json.loads(out), Family.load(folder)
    subnet, limit = found_in(out), 0.9 * parameters(SHAPE, SHAPE.full)
    start = path(family)[path(family).fit(limit)]
    assert report["parameters"] == parameters(SHAPE, subnet) <= limit and report["budget"] == {"ratio": 0.9}
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


def test_the_same_seed_is_the_same_file(folder, data, tmp_path):
    files = [tmp_path / f"{i}.json" for i in range(2)]
    for file in files:
        assert run("specialize", folder, "--data", data.path, "--ratio", 0.8, *QUICK, "--out", file)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_name_of_its_own_in_the_family(folder, data, tmp_path):
    before = (folder / FILE).read_bytes()
    line = ("specialize", folder, "--data", data.path, "--ratio", 0.8, *QUICK)
    code, out, _ = run(*line, "--add", "code", "--json")
    assert code == 0 and Family.load(folder).member("code").subnet == found_in(out)
    assert Family.load(folder).member("code").budget == {"ratio": 0.8}
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
    code, out, _ = run("eval", folder, "--data", data.path, "--member", "code", "--tokens", 64, "--limit", 1, "--json")
    assert code == 0 and [row["member"] for row in json.loads(out)] == ["code"]
    code, out, _ = run("verify", folder, "--forward")
    assert code == 0 and "code: counts" in out and "code: cut = masked" in out and "code: nested" not in out
    code, _, err = run(*line, "--add", "code")
    assert code == 2 and "extras.code: already there; --force replaces it" in err
    assert run(*line, "--add", "code", "--force")[0] == 0


def test_text_is_cut_by_the_familys_own_tokenizer(folder, tmp_path):
    rng, words = np.random.default_rng(0), ("alpha", "beta", "gamma", "delta", "return", "import")
    texts = [" ".join(rng.choice(words, 60)) for _ in range(40)]
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    code, out, err = run(
        "specialize",
        folder,
        "--data",
        tmp_path / "task",
        "--params",
        9000,
        *QUICK,
        "--out",
        tmp_path / "s.json",
    )
    assert code == 0, err
    assert "largest shape within 9,000 parameters" in out
    assert "on the other half" in out or "no shape is better" in out
    assert f"{tmp_path / 's.json'}: the " in out


@pytest.mark.parametrize(
    ("documents", "said"), [(1, "the text is one document: its halves are"), (2, None), (6, None)]
)
def test_one_document_has_no_interval(folder, tmp_path, documents, said):
    rng, words = np.random.default_rng(0), ("alpha", "beta", "gamma", "delta", "return", "import")
    (tmp_path / "task").mkdir()
    for number in range(documents):
        (tmp_path / "task" / f"{number}.txt").write_text(" ".join(rng.choice(words, 600)))
    line = ("specialize", folder, "--data", tmp_path / "task", "--ratio", 0.8, *QUICK, "--out", tmp_path / "s.json")
    code, out, err = run(*line)
    assert code == 0, err
    assert ("the text is one document: its halves are" in out) == (documents == 1)
    figures = json.loads((tmp_path / "s.json").read_text())["specialized"]
    assert figures["one_document"] == (documents == 1)
    if "no shape is better" not in out:
        assert ("one document has no interval" in out) == (documents <= 2) == (figures["gain"]["low"] is None)
        assert ("95% over documents" in out) == (documents > 2)
        assert documents > 2 or not figures["wins"]


def test_a_limit_on_memory_is_kept(folder, data, tmp_path):
    spec = MemorySpec(batch=4, length=64, weights="fp32")
    limit = int(0.85 * memory(SHAPE, SHAPE.full, spec))
    asked = ("--memory", f"{limit}B", "--batch", 4, "--context", 64, *QUICK, "--out", tmp_path / "s.json", "--json")
    code, out, _ = run("specialize", folder, "--data", data.path, *asked)
    assert code == 0 and memory(SHAPE, found_in(out), spec) <= limit
    assert json.loads(out)["budget"]["memory"] == {"size": f"{limit}B", "batch": 4, "length": 64, "weights": "fp32",
                                                   "cache": "bf16", "state": "fp32"}  # fmt: skip


def test_side_by_side_all_are_kept(folder, data, tmp_path):
    names = [f"task{i}" for i in range(4)]
    command = [sys.executable, "-m", "nemo_elastic", "specialize", folder, "--data", data.path, "--ratio", 0.8, *QUICK]
    quietly = {"stdout": subprocess.DEVNULL, "env": environment()}
    runs = [subprocess.Popen([*map(str, [*command, "--add", name])], **quietly) for name in names]
    assert [run.wait() for run in runs] == [0] * 4
    assert sorted(Family.load(folder).extra_names) == names


def test_what_was_found_is_printed_where_it_cannot_be_kept(folder, data, monkeypatch):
    """The name was free when the search began; another command took it meanwhile."""
    import nemo_elastic.evaluation as evaluation

    searched = evaluation.specialize

    def meanwhile(*arguments, **options):
        actual = searched(*arguments, **options)
        add_extra(folder, "code", FAMILY.member("small").subnet)
        return actual

    monkeypatch.setattr(evaluation, "specialize", meanwhile)
    line = ("specialize", folder, "--data", data.path, "--ratio", 0.8, *QUICK, "--add", "code")
    code, out, err = run(*line)
    assert code == 2 and err.endswith("error: extras.code: already there; --force replaces it\n")
    assert found_in(out) <= SHAPE.full and Family.load(folder).member("code").subnet == FAMILY.member("small").subnet


def test_tokens_outside_the_vocabulary_are_reported(folder, data, tmp_path):
    wrong = spoiled(data.path, tmp_path / "data", at=-1)
    line = ("specialize", folder, "--data", wrong, "--ratio", 0.9, *QUICK, "--out", tmp_path / "x.json")
    code, out, err = run(*line)
    assert (code, out) == (2, "") and f"error: {wrong}/val.bin: 60000 is not allowed; tokens are 0 to 399" in err
