# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The four commands: what they print, their exit codes, one line for what is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from nemo_elastic.cli import main
from nemo_elastic.cli.show import parse_count
from nemo_elastic.cost import MemorySpec, memory, parameters
from nemo_elastic.errors import ElasticError
from nemo_elastic.export.family_folder import write_family
from nemo_elastic.export.hf import MEMBER_FILE, open_source
from nemo_elastic.manifest import Family
from nemo_elastic.nn.weights import random_state
from tests.shapes import PARENT

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)
COUNT, WHOLE = parameters(PARENT, SMALL), parameters(PARENT, PARENT.full)
YAML = """
elastic:
  budgets: [{name: big}, {name: half, ratio: 0.5}]
  axes: {hidden: [16, 12, 8], ffn: [16, 8, 4], depth: [5, 4, 3]}
"""


@pytest.fixture
def family(tmp_path):
    state = random_state(PARENT, PARENT.full, dtype=torch.bfloat16)
    return write_family(tmp_path / "family", PARENT, state, Family.of(PARENT, {"small": SMALL}, ranking_digest="ab12"))


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        told = capsys.readouterr()
        return int(done.value.code or 0), told.out, told.err

    return call


def test_slice_by_name(run, family, tmp_path):
    code, out, err = run("slice", family, "--budget", "small", "--out", tmp_path / "cut")
    assert (code, err) == (0, "") and out == f"{tmp_path / 'cut'}: small, {COUNT:,} parameters\n"
    assert open_source(tmp_path / "cut").held == SMALL
    code, out, err = run("slice", family, "--budget", "small", "--out", tmp_path / "cut")
    assert (code, out, err) == (2, "", f"error: {tmp_path / 'cut'}: already exists; --force replaces it\n")
    code, out, _ = run("slice", family, "--budget", "small", "--out", tmp_path / "cut", "--force", "--json")
    assert code == 0 and json.loads(out) == {
        "out": str(tmp_path / "cut"), "member": "small", "parameters": COUNT, "subnet": SMALL.to_json(),
    }  # fmt: skip


def test_slice_by_size(run, family, tmp_path):
    code, out, _ = run("slice", family, "--params", WHOLE - 1, "--out", tmp_path / "a")
    below = f"{1 - COUNT / (WHOLE - 1):.1%} below {WHOLE - 1:,} parameters"
    assert code == 0 and f"largest member that fits: small takes {COUNT:,} parameters, {below}\n" in out
    assert (
        run("slice", family, "--params", "6.404K", "--out", tmp_path / "b")[1]
        .splitlines()[-1]
        .endswith(f"full, {WHOLE:,} parameters")
    )
    code, _, err = run("slice", family, "--params", 5, "--out", tmp_path / "c")
    assert code == 2 and err == f"error: --params: 5 parameters is too little; small takes {COUNT:,} parameters\n"
    size = int(memory(PARENT, PARENT.full, MemorySpec(batch=2, length=64)))
    for limit, name in ((size, "full"), (size - 1, "small")):
        options = ("--memory", f"{limit}B", "--batch", 2, "--length", 64, "--force", "--json")
        code, out, _ = run("slice", family, *options, "--out", tmp_path / "d")
        assert code == 0 and json.loads(out)["member"] == name
    code, _, err = run("slice", family, "--memory", "1KiB", "--out", tmp_path / "e")
    assert code == 2 and err.startswith("error: --memory: 1 KiB is too little; small takes")
    assert not (tmp_path / "c").exists() and not (tmp_path / "e").exists()


def test_slice_by_shape(run, family, tmp_path):
    (tmp_path / "shape.json").write_text(json.dumps(PARENT.uniform([0, 3], hidden=5).to_json()))
    code, out, _ = run("slice", family, "--subnet", tmp_path / "shape.json", "--out", tmp_path / "cut")
    assert code == 0 and "a shape of your own" in out and open_source(tmp_path / "cut").held.hidden == 5
    (tmp_path / "shape.json").write_text('{"hidden": 17, "layers": []}')
    code, _, err = run("slice", family, "--subnet", tmp_path / "shape.json", "--out", tmp_path / "x")
    assert code == 2 and err == "error: hidden: 17 is not allowed; allowed are 1 to 16\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give exactly one of --budget, --params, --memory, --subnet"),
        (["--budget", "small", "--params", "5"], "give exactly one of"),
        (["--budget", "smallish"], "did you mean 'small'"),
        (["--params", "many"], "--params: 'many' is not allowed; a number of parameters such as 6e9"),
        (["--memory", "14"], "--memory: '14' is not allowed; a size such as 18GiB"),
        (["--memory", "14GiB", "--batch", "0"], "memory.batch: 0"),
        (["--budget", "small", "--format", "gguf"], "format: 'gguf' is not allowed"),
        (["--subnet", "nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_slice_says_what_is_wrong_in_one_line(run, family, tmp_path, options, message):
    code, out, err = run("slice", family, *options, "--out", tmp_path / "cut")
    assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["family"]


def test_slice_of_no_family(run, family, tmp_path):
    run("slice", family, "--budget", "small", "--out", tmp_path / "small")
    code, _, err = run("slice", tmp_path / "small", "--params", "5e9", "--out", tmp_path / "x")
    assert code == 2 and "is one model, not a family; give a shape with --subnet" in err
    code, _, err = run("slice", tmp_path, "--budget", "small", "--out", tmp_path / "x")
    assert code == 2 and "not a model folder" in err


def test_inspect(run, family):
    code, out, _ = run("inspect", family)
    assert code == 0 and f"{WHOLE:,}" in out and f"{COUNT:,}" in out and "ranking: ab12" in out
    rows = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in out.splitlines()
        if "│" in line
    }
    assert rows["hidden size"] == ["16", "8"] and rows["layers"] == ["5", "4"]
    assert rows["0 mamba"] == ["6 x 4", "4 x 4"] and rows["2 mamba"] == ["6 x 4", "·"]
    assert rows["3 attention"] == ["4", "4"] and rows["4 mlp"] == ["16", "8"]
    code, out, _ = run("inspect", family, "--json", "--length", 16)
    told = json.loads(out)
    assert told["members"]["small"]["subnet"] == SMALL.to_json() and told["members"]["small"]["parameters"] == COUNT
    assert told["members"]["small"]["memory"]["bytes"] == memory(PARENT, SMALL, MemorySpec(length=16))
    assert told["ranking"] == "ab12" and told["parent"] == PARENT.to_json()
    (family / "model.safetensors").unlink()
    assert run("inspect", family)[0] == 0
    assert run("inspect", family.parent)[0] == 2


def test_init(run, family, tmp_path):
    run("slice", family, "--budget", "full", "--out", tmp_path / "plain")
    (tmp_path / "plain" / MEMBER_FILE).unlink()
    (tmp_path / "elastic.yaml").write_text(YAML)
    arguments = ("init", tmp_path / "plain", "--config", tmp_path / "elastic.yaml", "--out", tmp_path / "made")
    code, out, err = run(*arguments)
    assert code == 0, err
    made = Family.load(tmp_path / "made")
    assert all(f"{m.parameters:,}" in out and m.name in out for m in made) and made.names == ("big", "half")
    code, _, err = run(*arguments)
    assert code == 2 and "already exists" in err
    code, out, _ = run(*arguments, "--force", "--json")
    assert json.loads(out)["members"]["half"]["parameters"] == made.members[1].parameters
    (tmp_path / "elastic.yaml").write_text(YAML.replace("hidden", "hiden"))
    code, _, err = run(*arguments, "--force")
    assert code == 2 and "hiden" in err and len(err.splitlines()) == 1
    assert Family.load(tmp_path / "made") == made


def test_verify(run, family):
    code, out, _ = run("verify", family)
    assert code == 0 and "small: cut = masked" in out and "FAILED" not in out
    code, out, _ = run("verify", family, "--no-forward", "--json")
    assert code == 0 and json.loads(out)["ok"] is True and json.loads(out)["checks"][-1]["ok"] is None
    path = family / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2:] = b"\xff\x7f"
    path.write_bytes(content)
    code, out, _ = run("verify", family, "--no-forward")
    assert code == 1 and "FAILED" in out
    path.write_bytes(content[:-1])
    code, out, err = run("verify", family)
    assert code == 2 and "truncated" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["slice", "inspect", "init", "verify"])
def test_help_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and f"nemo-elastic {command} " in " ".join(out.split()).partition("Example")[2]


@pytest.mark.parametrize(
    ("text", "count"),
    [("6e9", 6e9), ("6B", 6e9), ("8.9b", 8.9e9), ("850M", 8.5e8), ("5k", 5e3), ("12", 12), ("1T", 1e12)],
)
def test_counts(text, count):
    assert parse_count("--params", text) == pytest.approx(count)


@pytest.mark.parametrize("text", ["", "B", "6GB", "-5", "0", "nan", "inf", "1e300", "6 9"])
def test_no_counts(text):
    with pytest.raises(ElasticError, match="a number of parameters"):
        parse_count("--params", text)
