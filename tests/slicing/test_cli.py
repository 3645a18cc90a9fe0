# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`slice`, `inspect`, `init` and `verify` as a user runs them; what they refuse is in `tests/bad_input`."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.shapes import PARENT

from .helpers import contents, plain_of

MID = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=12)
SMALL = PARENT.uniform([0, 1, 3], hidden=8, ffn=8, mamba_heads=4)
COUNT, WHOLE = parameters(PARENT, SMALL), parameters(PARENT, PARENT.full)
BLOCK = {
    "budgets": [{"name": "big"}, {"name": "half", "ratio": 0.5}],
    "axes": {"hidden": [16, 14, 12, 8], "ffn": {"choices": [16, 12, 8], "stripes": 4}, "mamba_heads": [6, 4]}
    | {"depth": [5, 4, 3]},
}
MADE = Family.of(
    PARENT,
    {"full": PARENT.full, "mid": MID, "small": SMALL},
    axes=ElasticConfig.from_dict(BLOCK).resolve_axes(PARENT),
    drop_order=(2, 4, 3, 1, 0),
    ranking_digest="ab12" * 16,
)
SHAPES = path(MADE)


def write(out):
    return write_family(out, PARENT, random_state(PARENT, PARENT.full, dtype=torch.bfloat16), MADE)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A family that no test writes into."""
    return write(tmp_path_factory.mktemp("made") / "family")


def test_slice_by_name(run, family, tmp_path):
    code, out, err = run("slice", family, "--member", "small", "--out", tmp_path / "cut")
    assert (code, err) == (0, "") and f"{COUNT:,} parameters" in out
    assert open_source(tmp_path / "cut").subnet == SMALL
    code, out, _ = run("slice", family, "--member", "small", "--out", tmp_path / "cut", "--force", "--json")
    assert code == 0 and json.loads(out) == {
        "out": str(tmp_path / "cut"), "member": "small", "parameters": COUNT, "subnet": SMALL.to_json(),
        "memory": asdict(MemorySpec()) | {"bytes": memory(PARENT, SMALL, MemorySpec())}, "request": None,
    }  # fmt: skip


def test_memory_at_a_batch_and_a_length(run, family, tmp_path):
    size = int(memory(PARENT, SHAPES[2], MemorySpec(batch=2, length=64)))
    options = ("--memory", f"{size}B", "--batch", 2, "--context", 64, "--json")
    code, out, _ = run("slice", family, *options, "--out", tmp_path / "cut")
    cut = json.loads(out)
    assert code == 0 and cut["subnet"] == SHAPES[2].to_json() and cut["memory"]["bytes"] == size
    assert cut["request"]["below"] == 0 and cut["request"]["value"] == size


@pytest.mark.parametrize("which", [("--member", "small"), ("--member", "small,mid"), ("--ratio", "40%")])
def test_a_dry_run_says_what_a_cut_does_and_writes_nothing(run, family, tmp_path, which):
    _, real, _ = run("slice", family, *which, "--out", tmp_path / "cut", "--json")
    code, dry, err = run("slice", family, *which, "--out", tmp_path / "dry", "--dryrun", "--json")
    cuts, told = (each if isinstance(each, list) else [each] for each in (json.loads(real), json.loads(dry)))
    assert (code, err, [*tmp_path.glob("dry*")]) == (0, "", [])
    assert told == [cut | {"out": None} for cut in cuts]
    code, words, _ = run("slice", family, *which, "--dryrun")
    assert code == 0 and all(f"{cut['parameters']:,} parameters" in words for cut in cuts)


@pytest.mark.parametrize(
    "limits",
    [{"ratio": 0.4}, {"params": WHOLE - 1, "memory": 2**20},
     {"memory": int(memory(PARENT, SHAPES[2], MemorySpec(batch=2, length=64))), "batch": 2, "context": 64}],
)  # fmt: skip
def test_limits_in_python_are_those_of_the_command(run, family, tmp_path, limits):
    texts = limits | ({"memory": f"{limits['memory']}B"} if "memory" in limits else {})
    options = [word for name, value in texts.items() for word in (f"--{name}", value)]
    code, out, _ = run("slice", family, *options, "--dryrun", "--json")
    assert code == 0
    assert slice_checkpoint(family, None, **limits).subnet.to_json() == json.loads(out)["subnet"]


def test_a_shape_in_a_file(run, family, tmp_path):
    shape, own = tmp_path / "shape.json", PARENT.uniform([0, 3], hidden=5)
    shape.write_text(json.dumps(own.to_json()))
    for source, out in ((family, tmp_path / "cut"), (tmp_path / "cut", tmp_path / "again")):
        assert run("slice", source, "--subnet", shape, "--out", out)[0] == 0
        assert open_source(out).subnet == own


def test_a_member_is_asked_for_as_its_family_is(run, family, tmp_path):
    run("slice", family, "--member", "mid", "--out", tmp_path / "mid")
    output = [
        run("slice", source, "--ratio", 0.4, "--out", tmp_path / "cut", "--force")
        for source in (family, tmp_path / "mid")
    ]
    assert output[0] == output[1] and output[0][0] == 0
    code, out, _ = run("slice", tmp_path / "mid", "--ratio", 1, "--out", tmp_path / "same")
    assert code == 0 and f"mid, the largest of this folder, {1 - parameters(PARENT, MID) / WHOLE:.2%} below" in out
    assert contents(tmp_path / "same") == contents(tmp_path / "mid")


def test_inspect(run, tmp_path):
    family = write(tmp_path / "family")
    code, out, _ = run("inspect", family)
    assert code == 0 and f"{WHOLE:,}" in out and f"{COUNT:,}" in out and MADE.ranking_digest in out
    tables = [line.split("│") for line in out.splitlines() if "│" in line]
    rows = {cells[1].strip(): [c.strip() for c in cells[2:-1]] for cells in tables}
    assert rows["hidden size"] == ["16", "12", "8"] and rows["0 mamba"] == ["6 x 4", "6 x 4", "4 x 4"]
    assert rows["of the parent"][-1] == f"{COUNT / WHOLE:.1%}"
    (family / "model.safetensors").unlink()
    code, out, _ = run("inspect", family, "--json", "--context", 16)
    report = json.loads(out)
    small = report["members"]["small"]
    assert small["subnet"] == SMALL.to_json() and small["parameters"] == COUNT
    assert small["memory"]["bytes"] == memory(PARENT, SMALL, MemorySpec(length=16))
    assert report["ranking"] == MADE.ranking_digest and report["parent"] == PARENT.to_json()


def test_init(run, family, tmp_path):
    plain_of(family, tmp_path / "plain")
    block = "\nelastic:\n  budgets:\n"
    assert block in run("inspect", tmp_path / "plain")[1] and block not in run("inspect", family)[1]
    (tmp_path / "elastic.json").write_text(json.dumps(BLOCK))
    arguments = ("init", tmp_path / "plain", "--config", tmp_path / "elastic.json", "--out", tmp_path / "made")
    code, out, err = run(*arguments)
    assert code == 0, err
    made = Family.load(tmp_path / "made")
    assert all(f"{m.parameters:,}" in out and m.name in out for m in made) and made.names == ("big", "half")
    code, out, _ = run(*arguments, "--force", "--json")
    assert json.loads(out)["members"]["half"]["parameters"] == made.members[1].parameters
    assert made.drop_order == (4, 2, 1, 0, 3)  # its one attention layer last


def test_verify(run, tmp_path):
    family = write(tmp_path / "family")
    code, out, _ = run("verify", family)
    assert code == 0 and "small: cut = masked" in out and "FAILED" not in out
    code, out, _ = run("verify", family, "--no-forward", "--json")
    assert code == 0 and json.loads(out)["ok"] is True and json.loads(out)["checks"][-1]["ok"] is None
    content = bytearray((family / "model.safetensors").read_bytes())
    content[-2:] = b"\xff\x7f"
    (family / "model.safetensors").write_bytes(content)
    code, out, _ = run("verify", family, "--no-forward")
    assert code == 1 and "FAILED" in out
