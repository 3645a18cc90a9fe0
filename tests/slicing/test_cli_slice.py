# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic slice`: members by name, any size between them, shapes in files; one line for what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from nemo_elastic.cli.show import writing
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.card import human_bytes
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.loads import runs_in
from tests.shapes import PARENT

from .helpers import contents, without_family

MID = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=12)
SMALL = PARENT.uniform([0, 1, 3], hidden=8, ffn=8, mamba_heads=4)
COUNT, WHOLE = parameters(PARENT, SMALL), parameters(PARENT, PARENT.full)
BLOCK = {
    "budgets": [{"name": "small", "ratio": 0.5}],
    "axes": {"hidden": [16, 14, 12, 8], "ffn": {"choices": [16, 12, 8], "stripes": 4}, "mamba_heads": [6, 4]}
    | {"depth": [5, 4, 3]},
}
MADE = Family.of(
    PARENT,
    {"full": PARENT.full, "mid": MID, "small": SMALL},
    axes=ElasticConfig.from_dict(BLOCK).resolve_axes(PARENT),
    drop_order=(2, 4, 3, 1, 0),
)
SHAPES = list(path(MADE))


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A family that no test writes into."""
    state = random_state(PARENT, PARENT.full, dtype=torch.bfloat16)
    return write_family(tmp_path_factory.mktemp("made") / "family", PARENT, state, MADE)


def in_words(subnet, **spec):
    held = MemorySpec(**spec)
    return (
        f"{parameters(PARENT, subnet):,} parameters, {human_bytes(memory(PARENT, subnet, held))} in service "
        f"(bf16, {held.batch} x {held.length} tokens); runs in {runs_in(subnet, PARENT)}"
    )


def test_slice_by_name(run, family, tmp_path):
    code, out, err = run("slice", family, "--member", "small", "--out", tmp_path / "cut")
    assert (code, err) == (0, "") and out == f"{tmp_path / 'cut'}: small, {in_words(SMALL)}\n"
    assert open_source(tmp_path / "cut").held == SMALL
    code, out, err = run("slice", family, "--member", "small", "--out", tmp_path / "cut")
    assert (code, out, err) == (2, "", f"error: {tmp_path / 'cut'}: already exists; --force replaces it\n")
    code, out, _ = run("slice", family, "--member", "small", "--out", tmp_path / "cut", "--force", "--json")
    assert code == 0 and json.loads(out) == {
        "out": str(tmp_path / "cut"), "member": "small", "parameters": COUNT, "subnet": SMALL.to_json(),
        "memory": asdict(MemorySpec()) | {"bytes": memory(PARENT, SMALL, MemorySpec())}, "request": None,
        "runs_in": runs_in(SMALL, PARENT),
    }  # fmt: skip


def test_several_names_in_one_pass(run, family, tmp_path):
    options = ("--member", "small", "--member", "mid", "--batch", 2)
    code, out, err = run("slice", family, *options, "--out", tmp_path / "cuts")
    assert (code, err) == (0, "") and sorted(p.name for p in (tmp_path / "cuts").glob("[!.]*")) == ["mid", "small"]
    for name, subnet, line in zip(("small", "mid"), (SMALL, MID), out.splitlines(), strict=True):
        assert line == f"{tmp_path / 'cuts' / name}: {name}, {in_words(subnet, batch=2)}"
        run("slice", family, "--member", name, "--out", tmp_path / name)
        assert contents(tmp_path / "cuts" / name) == contents(tmp_path / name)
    code, out, _ = run("slice", family, *options, "--out", tmp_path / "cuts", "--force", "--json")
    assert [(x["member"], x["parameters"]) for x in json.loads(out)] == [
        ("small", COUNT),
        ("mid", parameters(PARENT, MID)),
    ]
    run("slice", family, "--member", "small", "--out", tmp_path / "one")
    without_family(tmp_path / "one")
    code, _, err = run("slice", tmp_path / "one", "--member", "small", "--member", "mid", "--out", tmp_path / "x")
    assert code == 2 and "is one model, not a family" in err and not (tmp_path / "x").exists()


def test_memory_at_a_batch_and_a_length(run, family, tmp_path):
    spec = {"batch": 2, "length": 64}
    sizes = [int(memory(PARENT, s, MemorySpec(**spec))) for s in SHAPES]
    for at in (0, 2, len(SHAPES) - 1):
        options = ("--memory", f"{sizes[at]}B", "--batch", 2, "--context", 64, "--force", "--json")
        code, out, _ = run("slice", family, *options, "--out", tmp_path / "cut")
        cut = json.loads(out)
        assert code == 0 and cut["subnet"] == SHAPES[at].to_json() and cut["memory"]["bytes"] == sizes[at]
        assert cut["request"]["below"] == 0 and cut["request"]["value"] == sizes[at]
    code, out, _ = run("slice", family, "--memory", "1GiB", "--out", tmp_path / "big")
    assert code == 0 and out.startswith("largest shape within 1 GiB: full, the parent itself, 99.9")
    assert open_source(tmp_path / "big").held == PARENT.full


def test_a_shape_in_a_file(run, family, tmp_path):
    shape, own = tmp_path / "shape.json", PARENT.uniform([0, 3], hidden=5)
    shape.write_text(json.dumps(own.to_json()))
    code, out, _ = run("slice", family, "--subnet", shape, "--out", tmp_path / "cut")
    assert code == 0 and out == f"{tmp_path / 'cut'}: a shape of your own, {in_words(own)}\n"
    assert open_source(tmp_path / "cut").held == own
    # what `inspect` prints of a member, or of a place on the path
    for entry in (
        json.loads(run("inspect", family, "--json")[1])["members"]["mid"],
        json.loads(run("inspect", family, "--json", "--sizes", "12")[1])["path"][2],
    ):
        shape.write_text(json.dumps(entry))
        code, out, _ = run("slice", family, "--subnet", shape, "--out", tmp_path / "cut", "--force", "--json")
        assert code == 0 and json.loads(out)["subnet"] == entry["subnet"]
    # from one model, too
    shape.write_text(json.dumps(replace(SMALL, hidden=3).to_json()))
    run("slice", family, "--member", "small", "--out", tmp_path / "small")
    assert run("slice", tmp_path / "small", "--subnet", shape, "--out", tmp_path / "less")[0] == 0
    assert open_source(tmp_path / "less").held.hidden == 3


def test_a_member_is_asked_for_as_its_family_is(run, family, tmp_path):
    run("slice", family, "--member", "mid", "--out", tmp_path / "mid")
    count = parameters(PARENT, MID)
    for request in (("--ratio", 0.4), ("--memory", "8KB", "--context", 64), ("--params", COUNT)):
        output = [
            run("slice", source, *request, "--out", tmp_path / "cut", "--force")[1]
            for source in (family, tmp_path / "mid")
        ]
        assert output[0] == output[1] and output[0]
    code, out, _ = run("slice", tmp_path / "mid", "--ratio", 1, "--out", tmp_path / "same")
    share = f"{1 - count / WHOLE:.2%}"
    assert code == 0 and out.startswith(f"largest shape within 1 of the parent ({WHOLE:,} parameters): mid, ")
    assert f"mid, the largest of this folder, {share} below" in out
    assert contents(tmp_path / "same") == contents(tmp_path / "mid")
    code, _, err = run("slice", tmp_path / "mid", "--params", COUNT - 1, "--out", tmp_path / "x")
    assert code == 2 and f"is too little; the smallest, small, takes {COUNT:,} parameters" in err
    code, _, err = run("slice", tmp_path / "mid", "--member", "full", "--out", tmp_path / "x")
    assert code == 2 and f"not inside {tmp_path / 'mid'}: " in err and not (tmp_path / "x").exists()


def test_the_bar_tells_time_on_a_terminal_and_nothing_elsewhere(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")  # rich moves nothing on a dumb one
    for forced in (False, True):
        if forced:
            monkeypatch.setenv("FORCE_COLOR", "1")
        with writing("writing 6b", quiet=False) as progress:
            progress(500_000, 1_000_000)
        shown = capsys.readouterr().err
        assert ("writing 6b" in shown and "0.5/1.0 MB" in shown and "left" in shown) == forced
        assert forced or shown == ""
    with writing("writing 6b", quiet=True) as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""
