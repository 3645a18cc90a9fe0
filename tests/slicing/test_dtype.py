# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`slice --dtype`: the same cut in other words, in the config, the card, the checksums and for `verify`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.slicing.slicer import slice_checkpoint, slice_members
from nemo_elastic.slicing.verification import verify
from tests.shapes import PARENT

from .helpers import SMALL, contents, random_values, random_words, write

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MID = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=12)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    place = tmp_path_factory.mktemp("dtype") / "family"
    return write(place, PARENT, {"mid": MID, "small": SMALL}, tensors=random_values(PARENT))


@pytest.mark.parametrize("name", list(DTYPES))
def test_every_tensor_is_stored_in_it(run, family, tmp_path, name):
    code, out, err = run("slice", family, "--member", "small", "--dtype", name, "--out", tmp_path / "cut")
    assert (code, err) == (0, "") and f"({name}, 1 x 8192 tokens)" in out
    slice_checkpoint(family, tmp_path / "whole", member="small")
    actual, whole = (load_file(tmp_path / folder / "model.safetensors") for folder in ("cut", "whole"))
    assert set(actual) == set(whole)
    assert all(torch.equal(tensor, whole[n].to(DTYPES[name])) for n, tensor in actual.items())
    assert all(tensor.dtype == DTYPES[name] for tensor in actual.values())
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["torch_dtype"] == str(DTYPES[name]).removeprefix("torch.")
    assert f"memory ({name}, " in (tmp_path / "cut" / "README.md").read_text()
    if name == "fp32":
        assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_verify_takes_it_for_the_cut(family, tmp_path, name):
    slice_checkpoint(family, tmp_path / "cut", member="small", dtype=name)
    checks = {check.name: check for check in verify(tmp_path / "cut", parent=family).checks}
    assert all(check.ok for check in checks.values()), checks
    report = {"bf16": "BF16", "fp16": "F16"}[name]
    assert checks["cut of the parent"].figure == f"every tensor, converted from F32 to {report}, byte for byte"
    assert checks["checksums"].ok and checks["cut = masked"].ok
    slice_checkpoint(family, tmp_path / "full", member="full", dtype=name)
    assert verify(tmp_path / "full", parent=family).ok
    weights = tmp_path / "cut" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (tmp_path / "cut" / CHECKSUMS_FILE).unlink()
    failed = {check.name for check in verify(tmp_path / "cut", parent=family).checks if check.ok is False}
    assert "cut of the parent" in failed


def test_it_does_not_matter_when_it_is_converted(family, tmp_path):
    """Of a member that was converted the rest is cut as of the family; several at once are what each is alone."""
    slice_members(family, tmp_path / "both", {"mid": MID, "small": SMALL}, dtype="bf16")
    slice_checkpoint(family, tmp_path / "small", member="small", dtype="bf16")
    slice_checkpoint(tmp_path / "both" / "mid", tmp_path / "again", member="small")
    assert contents(tmp_path / "both" / "small") == contents(tmp_path / "small") == contents(tmp_path / "again")


def test_widening_and_back_changes_nothing(tmp_path):
    values = {name: torch.from_numpy(value).bfloat16() for name, value in random_values(PARENT).items()}
    write(tmp_path / "family", PARENT, tensors=values)
    slice_checkpoint(tmp_path / "family", tmp_path / "wide", member="full", dtype="fp32")
    slice_checkpoint(tmp_path / "wide", tmp_path / "back", member="full", dtype="bf16")
    slice_checkpoint(tmp_path / "family", tmp_path / "same", member="full")
    assert contents(tmp_path / "back") == contents(tmp_path / "same")
    assert verify(tmp_path / "wide", parent=tmp_path / "family").ok


def test_a_limit_on_memory_is_for_what_is_written(run, family, tmp_path):
    report = [
        json.loads(
            run("slice", family, "--memory", "20KB", "--context", 64, *more, "--out", tmp_path / name, "--json")[1]
        )
        for name, more in (("wide", ()), ("short", ("--dtype", "bf16")))
    ]
    assert [t["memory"]["weights"] for t in report] == ["fp32", "bf16"] and report[0]["parameters"] < report[1][
        "parameters"
    ]


def test_what_cannot_be_stored_so_leaves_nothing(run, tmp_path):
    values = random_values(PARENT)
    values["backbone.norm_f.weight"][3] = 70000
    write(tmp_path / "large", PARENT, tensors=values)
    write(tmp_path / "fp8", PARENT, tensors=random_words(PARENT, "F8_E4M3"))
    for source, name, line in (
        ("large", "fp16", "tensor 'backbone.norm_f.weight' has a number that fp16 cannot hold (at most 65504)"),
        ("fp8", "bf16", "dtype: 'bf16' is not allowed; tensor 'backbone.embeddings.weight' is stored in F8_E4M3; "),
    ):
        code, out, err = run(
            "slice", tmp_path / source, "--member", "full", "--dtype", name, "--out", tmp_path / "cut"
        )
        assert (code, out) == (2, "") and err.startswith(f"error: {line}") and len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fp8", "large"]


def test_what_becomes_zero_is_reported_and_counted(run, tmp_path):
    values = random_values(PARENT)
    name = "backbone.embeddings.weight"
    values[name][3, :5] = [1e-9, -1e-9, 0.0, -0.0, 6e-8]  # the last is the smallest that stays
    family = write(tmp_path / "family", PARENT, {"mid": MID, "small": SMALL}, tensors=values)
    exact = sum(int(((t.half() == 0) & (t != 0)).sum()) for t in load_file(family / "model.safetensors").values())
    assert exact >= 2
    message = f"{exact} numbers are too small for this dtype, and are 0 now"
    code, out, err = run("slice", family, "--member", "full", "--dtype", "fp16", "--out", tmp_path / "a")
    assert (code, err) == (0, "") and message in out
    code, out, _ = run("slice", family, "--member", "full", "--dtype", "fp16", "--out", tmp_path / "b", "--json")
    assert code == 0 and json.loads(out)["underflowed"] == exact
    cuts = slice_members(family, tmp_path / "c", {"x": PARENT.full, "y": SMALL}, dtype="fp16")
    assert cuts[0].underflowed == exact and cuts[1].underflowed <= exact
    code, out, _ = run("slice", family, "--member", "full", "--dtype", "bf16", "--out", tmp_path / "d")
    assert code == 0 and "too small" not in out


@pytest.mark.parametrize(("name", "tiny"), [("fp16", 1e-9), ("bf16", 1e-41)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_number_that_becomes_zero_is_counted_once(tmp_path, tied, name, tiny):
    """A tied head is written from the embedding, and is no second number; float32 has smaller ones than bfloat16."""
    parent = replace(PARENT, tied=tied)
    values = random_values(parent)
    values["backbone.embeddings.weight"][3, :2] = tiny, -tiny
    write(tmp_path / "family", parent, tensors=values)
    assert slice_checkpoint(tmp_path / "family", tmp_path / "cut", member="full", dtype=name).underflowed == 2
