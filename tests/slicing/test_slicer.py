# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cuts: the right words, the same from wherever they are cut, nothing else; and the same in another dtype."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.slicing.slicer import slice_checkpoint, slice_members
from tests.shapes import PARENT

from .helpers import SMALL, contents, random_values, random_words, write


def test_a_member_by_name_and_what_is_reported_of_it(tmp_path):
    write(tmp_path / "family", PARENT, {"small": SMALL})
    reports = []
    place, out = tmp_path / "family", tmp_path / "cut"
    cut = slice_checkpoint(place, out, member="small", progress=lambda *at: reports.append(at))
    assert (cut.member, cut.subnet, cut.parameters) == ("small", SMALL, parameters(PARENT, SMALL))
    assert reports[-1] == (2 * cut.parameters, 2 * cut.parameters) and reports == sorted(reports)
    member = json.loads((tmp_path / "cut" / MEMBER_FILE).read_text())
    assert member["name"] == "small" and member["provenance"] == {"made_by": "a test"}
    assert Subnet.from_json(member["subnet"], PARENT) == SMALL
    card = (tmp_path / "cut" / "README.md").read_text()
    assert f"{cut.parameters:,}" in card and '"made_by": "a test"' in card and "trust_remote_code" not in card
    assert not (tmp_path / "cut" / "elastic.json").exists()
    # the shape of a named member has that name, however it is given
    assert slice_checkpoint(tmp_path / "family", tmp_path / "same", subnet=SMALL).member == "small"
    assert contents(tmp_path / "same") == contents(tmp_path / "cut")
    # and keeps it when it is copied out of its own folder
    assert slice_checkpoint(tmp_path / "cut", tmp_path / "again", subnet=SMALL).member == "small"
    assert contents(tmp_path / "again") == contents(tmp_path / "cut")


def test_companions_go_along(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE", "notes.txt", "model.py"):
        (tokenizer / name).write_text(name)
    (tokenizer / "generation_config.json").write_text('{"eos_token_id": 7}')
    base = {"eos_token_id": 7, "bos_token_id": 3, "max_position_embeddings": 512, "initializer_range": 0.5}
    write(tmp_path / "family", PARENT, tokenizer_dir=tokenizer, base=base)
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", subnet=SMALL)
    files = contents(tmp_path / "cut")
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"} < set(files)
    assert not {"notes.txt", "model.py"} & set(files)
    assert files["generation_config.json"] == b'{"eos_token_id": 7}'
    config = json.loads(files["config.json"])
    assert {k: config[k] for k in base} == base and config["pad_token_id"] is None


def test_generation_settings_are_made_where_there_are_none(tmp_path):
    write(tmp_path / "family", PARENT, base={"eos_token_id": [4, 5], "bos_token_id": None})
    assert json.loads((tmp_path / "family" / "generation_config.json").read_text()) == {"eos_token_id": [4, 5]}


def test_no_attention_no_cache(tmp_path):
    """transformers' cache asks an attention layer how many tokens it holds."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "generation_config.json").write_text('{"eos_token_id": 7}')
    write(tmp_path / "family", PARENT, tokenizer_dir=tmp_path / "tokenizer")
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", subnet=PARENT.uniform([0, 1]))
    files = contents(tmp_path / "cut")
    assert json.loads(files["generation_config.json"]) == {"eos_token_id": 7, "use_cache": False}
    assert json.loads(files["config.json"])["use_cache"] is False


def test_per_layer_widths_bring_their_code(tmp_path):
    uneven = Subnet(16, (PARENT.layer(1, ffn=8), PARENT.layer(4, ffn=12)))
    write(tmp_path / "family", PARENT)
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", subnet=uneven)
    files = contents(tmp_path / "cut")
    for name in ("configuration_nemotron_h_puzzle.py", "modeling_nemotron_h_puzzle.py"):
        compile(files[name], name, "exec")
    assert b"trust_remote_code=True" in files["README.md"]
    assert open_source(tmp_path / "cut").subnet == uneven


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "name of a member, a subnet"),
        ({"member": "small", "subnet": SMALL}, "name of a member, a subnet"),
        ({"member": "small", "ratio": 0.5}, "name of a member, a subnet"),
    ],
)
def test_a_wrong_wish_leaves_nothing(wanted, message, tmp_path):
    write(tmp_path / "family", PARENT, {"small": SMALL})
    with pytest.raises(ElasticError, match=message):
        slice_checkpoint(tmp_path / "family", tmp_path / "out" / "cut", **wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["family"]


def test_what_a_member_has_lost_cannot_be_cut_from_it(tmp_path):
    write(tmp_path / "family", PARENT, {"small": SMALL})
    slice_checkpoint(tmp_path / "family", tmp_path / "small", member="small")
    for wanted in ({"subnet": PARENT.uniform([2], hidden=4)}, {"member": "full"}):
        with pytest.raises(ElasticError, match=f"not inside {tmp_path / 'small'}: "):
            slice_checkpoint(tmp_path / "small", tmp_path / "cut", **wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["family", "small"]


# ------------------------------------------------------------------ another dtype

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
MID = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=12)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    place = tmp_path_factory.mktemp("dtype") / "family"
    return write(place, PARENT, {"mid": MID, "small": SMALL}, tensors=random_values(PARENT))


@pytest.mark.parametrize("name", ["fp16", "fp32"])
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


def test_it_does_not_matter_when_it_is_converted(family, tmp_path):
    """Of a member that was converted the rest is cut as of the family; several at once are what each is alone."""
    slice_members(family, tmp_path / "both", {"mid": MID, "small": SMALL}, dtype="bf16")
    slice_checkpoint(family, tmp_path / "small", member="small", dtype="bf16")
    slice_checkpoint(tmp_path / "both" / "mid", tmp_path / "again", member="small")
    assert contents(tmp_path / "both" / "small") == contents(tmp_path / "small") == contents(tmp_path / "again")


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


@pytest.mark.parametrize(("name", "tiny"), [("fp16", 1e-9), ("bf16", 1e-41)])
def test_a_number_that_becomes_zero_is_counted_once(run, tmp_path, name, tiny):
    """A tied head is written from the embedding, and is no second number; float32 has smaller ones than bfloat16."""
    parent = replace(PARENT, tied=True)
    values = random_values(parent)
    values["backbone.embeddings.weight"][3, :5] = tiny, -tiny, 0.0, -0.0, 6e-8  # the last stays
    write(tmp_path / "family", parent, tensors=values)
    code, out, _ = run(
        "slice", tmp_path / "family", "--member", "full", "--dtype", name, "--out", tmp_path / "b", "--json"
    )
    assert code == 0 and json.loads(out)["underflowed"] == 2
