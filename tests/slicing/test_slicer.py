# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cuts: the right words, the same from wherever they are cut, and nothing else."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import MEMBER_FILE, open_tensors
from tests.shapes import PARENT

from .helpers import contents, plain_of, write

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4, mamba_head_dim=2, attention_heads=2)


def test_a_member_by_name_and_what_is_reported_of_it(tmp_path):
    write(tmp_path / "family", PARENT, {"small": SMALL})
    reports = []
    cut = slice_checkpoint(
        tmp_path / "family", tmp_path / "cut", member="small", progress=lambda *at: reports.append(at)
    )
    assert (cut.member, cut.subnet, cut.parameters) == ("small", SMALL, parameters(PARENT, SMALL))
    assert reports[-1] == (2 * cut.parameters, 2 * cut.parameters) and [a for a, _ in reports] == sorted(
        a for a, _ in reports
    )
    member = json.loads((tmp_path / "cut" / MEMBER_FILE).read_text())
    assert member["name"] == "small" and member["provenance"] == {"made_by": "a test"}
    assert Subnet.from_json(member["subnet"], PARENT) == SMALL
    card = (tmp_path / "cut" / "README.md").read_text()
    assert f"{cut.parameters:,}" in card and "from_pretrained" in card
    assert "vLLM has no attention for heads of 4 channels" in card and "vllm serve" not in card
    assert '"made_by": "a test"' in card and "trust_remote_code" not in card
    assert json.dumps(SMALL.to_json(), indent=1) in card
    assert not (tmp_path / "cut" / "elastic.json").exists()
    # the shape of a named member has that name, however it is given
    assert slice_checkpoint(tmp_path / "family", tmp_path / "same", subnet=SMALL).member == "small"
    assert contents(tmp_path / "same") == contents(tmp_path / "cut")
    # and keeps it when it is copied out of its own folder
    assert slice_checkpoint(tmp_path / "cut", tmp_path / "again", subnet=SMALL).member == "small"
    assert contents(tmp_path / "again") == contents(tmp_path / "cut")


def test_a_plain_model_is_a_parent_too(tmp_path):
    plain_of(write(tmp_path / "family", PARENT), tmp_path / "plain")
    plain = replace(PARENT, ffn_stripes=1)  # of stripes a plain config does not tell: the FFN is cut as one block
    cut = slice_checkpoint(tmp_path / "plain", tmp_path / "cut", subnet=plain.uniform(ffn=5))
    assert cut.member is None
    up = "backbone.layers.1.mixer.up_proj.weight"
    np.testing.assert_array_equal(
        open_tensors(tmp_path / "cut")[up].words, open_tensors(tmp_path / "plain")[up].words[:5]
    )


def test_companions_go_along(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE", "notes.txt", "model.py"):
        (tokenizer / name).write_text(name)
    (tokenizer / "generation_config.json").write_text('{"eos_token_id": 7}')
    (tokenizer / "merges.txt").symlink_to(tokenizer / "notes.txt")  # as the hub's cache has them
    base = {"eos_token_id": 7, "bos_token_id": 3, "max_position_embeddings": 512, "initializer_range": 0.5}
    write(tmp_path / "family", PARENT, tokenizer_dir=tokenizer, base=base)
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", subnet=SMALL)
    files = contents(tmp_path / "cut")
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE", "merges.txt"} < set(files)
    assert not {"notes.txt", "model.py"} & set(files) and files["merges.txt"] == b"notes.txt"
    assert not (tmp_path / "cut" / "merges.txt").is_symlink()
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
    assert json.loads((tmp_path / "cut" / "generation_config.json").read_text()) == {
        "eos_token_id": 7,
        "use_cache": False,
    }
    assert json.loads((tmp_path / "cut" / "config.json").read_text())["use_cache"] is False
    assert "has no attention layer" in (tmp_path / "cut" / "README.md").read_text()


def test_per_layer_widths_bring_their_code(tmp_path):
    uneven = Subnet(16, (PARENT.layer(1, ffn=8), PARENT.layer(4, ffn=12)))
    write(tmp_path / "family", PARENT)
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", subnet=uneven)
    files = contents(tmp_path / "cut")
    for name in ("configuration_nemotron_h_puzzle.py", "modeling_nemotron_h_puzzle.py"):
        compile(files[name], name, "exec")
    assert b"trust_remote_code=True" in files["README.md"] and b"cannot serve" not in files["README.md"]
    assert open_source(tmp_path / "cut").held == uneven
    heads = Subnet(16, (PARENT.layer(0, mamba_heads=4), PARENT.layer(2)))
    slice_checkpoint(tmp_path / "family", tmp_path / "heads", subnet=heads)
    assert "vLLM needs the same Mamba heads" in (tmp_path / "heads" / "README.md").read_text()


def test_a_tied_head_is_in_the_file_and_counts_once(tmp_path):
    tied = replace(PARENT, tied=True)
    write(tmp_path / "family", tied)
    cut = slice_checkpoint(tmp_path / "family", tmp_path / "cut", subnet=SMALL)
    read = open_tensors(tmp_path / "cut")
    np.testing.assert_array_equal(read["lm_head.weight"].words, read["backbone.embeddings.weight"].words)
    assert sum(math.prod(t.shape) for t in read.values()) == cut.parameters + tied.vocab * SMALL.hidden


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "give either the name of a member or a subnet"),
        ({"member": "small", "subnet": SMALL}, "give either"),
        ({"subnet": Subnet(16, (PARENT.layer(0, mamba_heads=3),))}, "heads: 3 .* in multiples of 2"),
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
    for subnet, why in (
        (PARENT.full, "hidden 16 is above 8"),
        (PARENT.uniform([2], hidden=4), "layer 2 is not in the larger one"),
        (PARENT.uniform([0], hidden=4), "layer 0 has mamba_heads 6, above 4"),
    ):
        with pytest.raises(ElasticError, match=f"not inside {tmp_path / 'small'}: {why}"):
            slice_checkpoint(tmp_path / "small", tmp_path / "cut", subnet=subnet)
    with pytest.raises(ElasticError, match=f"not inside {tmp_path / 'small'}: hidden 16 is above 8"):
        slice_checkpoint(tmp_path / "small", tmp_path / "cut", member="full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["family", "small"]


def test_cutting_brings_neither_torch_nor_nemo(tmp_path):
    write(tmp_path / "family", PARENT, {"small": SMALL})
    code = (
        "import sys, nemo_elastic\n"
        f"nemo_elastic.slice_checkpoint({str(tmp_path / 'family')!r}, {str(tmp_path / 'cut')!r}, member='small')\n"
        "print(sorted({'torch', 'transformers', 'nemo', 'megatron'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert done.stdout.strip() == "[]", done.stderr
    assert (tmp_path / "cut" / "model.safetensors").is_file()
