# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""inspect, init and verify: what they print, their exit codes, one line for what is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family
from tests.shapes import PARENT

from .helpers import plain_of, without_family

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
    return write_family(
        tmp_path / "family", PARENT, state, Family.of(PARENT, {"small": SMALL}, ranking_digest="ab12" * 16)
    )


def test_inspect(run, family):
    code, out, _ = run("inspect", family)
    assert code == 0 and f"{WHOLE:,}" in out and f"{COUNT:,}" in out and f"ranking: {'ab12' * 16}" in out
    rows = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in out.splitlines()
        if "│" in line
    }
    assert rows["hidden size"] == ["16", "8"] and rows["layers"] == ["5", "4"]
    assert rows["0 mamba"] == ["6 x 4", "4 x 4"] and rows["2 mamba"] == ["6 x 4", "·"]
    assert rows["3 attention"] == ["4", "4"] and rows["4 mlp"] == ["16", "8"]
    code, out, _ = run("inspect", family, "--json", "--context", 16)
    report = json.loads(out)
    assert (
        report["members"]["small"]["subnet"] == SMALL.to_json() and report["members"]["small"]["parameters"] == COUNT
    )
    assert report["members"]["small"]["memory"]["bytes"] == memory(PARENT, SMALL, MemorySpec(length=16))
    assert report["ranking"] == "ab12" * 16 and report["parent"] == PARENT.to_json()
    (family / "model.safetensors").unlink()
    assert run("inspect", family)[0] == 0 and run("inspect", family, "--sizes", "12")[0] == 0
    assert run("inspect", family.parent)[0] == 2


def test_inspect_lists_sizes_between_members(run, family, tmp_path):
    shapes = path(Family.load(family))
    code, out, err = run("inspect", family, "--sizes", 3)
    rows = [line.split() for line in out.splitlines() if line.strip()[-1:].isdigit()]
    assert (code, err) == (0, "") and f"of {len(shapes)} sizes (memory: bf16, 1 x 8192 tokens)" in out
    assert rows[0][:3] == ["full", f"{WHOLE:,}", "100%"] and rows[-1][:2] == ["small", f"{COUNT:,}"]
    assert rows[0][-5:] == ["16", "16", "6x4", "4", "5"] and rows[-1][-5:] == ["8", "8", "4x4", "4", "4"]
    assert len(rows) == 3

    code, out, _ = run("inspect", family, "--sizes", "12", "--json", "--batch", 3)
    report, whole = json.loads(out), json.loads(run("inspect", family, "--json", "--batch", 3)[1])
    listed = report.pop("path")
    assert report == whole and listed[0]["member"] == "full" and listed[-1]["member"] == "small"
    for entry, at in zip(listed, shapes.spread(12), strict=True):
        subnet = Subnet.from_json(entry["subnet"], PARENT)
        assert subnet == shapes[at] and entry["parameters"] == parameters(PARENT, subnet)
        assert entry["memory"]["bytes"] == memory(PARENT, subnet, MemorySpec(batch=3))
        assert (entry["between"] is None) == (entry["member"] is not None)
    assert listed[1]["between"] == ["full", "small"]

    code, _, err = run("inspect", family, "--sizes", 1)
    assert code == 2 and err.startswith("error: Invalid value for '--sizes'")
    # of a member what is left below it
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(listed[1]))
    run("slice", family, "--subnet", shape, "--out", tmp_path / "cut")
    code, out, _ = run("inspect", tmp_path / "cut", "--sizes", "12", "--json", "--batch", 3, "--sizes", 10_000)
    places = [entry["subnet"] for entry in json.loads(out)["path"]]
    assert code == 0 and places == [s.to_json() for s in shapes[shapes.spread(12)[1] :]]
    code, out, _ = run("inspect", tmp_path / "cut", "--sizes", "12")
    assert code == 0 and f" of {len(places)} sizes" in out
    without_family(tmp_path / "cut")
    code, _, err = run("inspect", tmp_path / "cut", "--sizes", "12")
    assert (code, err) == (
        2,
        f"error: {tmp_path / 'cut'}: is one model, not a family; it has no sizes between members\n",
    )


def test_init(run, family, tmp_path):
    plain_of(family, tmp_path / "plain")
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
    assert Family.load(tmp_path / "made") == made and made.drop_order == (
        4,
        2,
        1,
        0,
        3,
    )  # its one attention layer last


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
    assert code == 2 and "not a whole safetensors file" in err and len(err.splitlines()) == 1


def test_an_example_to_try_commands_on(run, tmp_path):
    out = tmp_path / "family"
    code, printed, _ = run("init", "--example", "--out", out)
    assert code == 0 and "small" in printed
    assert run("verify", out)[0] == 0
    assert run("slice", out, "--member", "small", "--out", tmp_path / "small")[0] == 0
    assert run("verify", tmp_path / "small", "--parent", out)[0] == 0
    code, _, err = run("init", "--example", "--out", out)
    assert code == 2 and "already exists" in err
    assert run("init", "--example", "--out", out, "--force")[0] == 0
    code, _, err = run("init", "--example", "--config", "block.yaml", "--out", tmp_path / "other")
    assert code == 2 and err.startswith("error: --example: is not allowed with ")
    code, _, err = run("init", tmp_path, "--out", tmp_path / "other")
    assert code == 2 and err == "error: --config: is missing; or give --example\n"
    assert not (tmp_path / "other").exists()
