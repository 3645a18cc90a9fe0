# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members with experts: what is cut, what is reported, and layers that predict more than one token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import is_exact
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import Prediction, is_mtp
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.slicing.verification import verify
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT, MOE

from .helpers import edit_json, large_biases, printed, random_values, random_words, write

PREDICTION = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E", "max_position_embeddings": 4096}
BLOCK = {
    "budgets": [{"name": "whole"}, {"name": "mid", "active_params": 6000}, {"name": "low", "ratio": 0.5}],
    "axes": {
        "hidden": [16, 12, 8],
        "experts": {"choices": [8, 6, 4], "per_layer": True, "stripes": 2},
        "expert_ffn": {"choices": [12, 8, 4], "per_layer": True},
        "shared_ffn": [20, 12],
    },
}


def mtp_of(folder: Path) -> dict[str, Tensor]:
    """Tensors of a folder's layers that predict further tokens."""
    return {name: t for name, t in open_source(folder).tensors.items() if is_mtp(name)}


def plain(folder: Path, parent: Parent, prediction: bool = False) -> Path:
    """A folder as others write one: no stripes, no `elastic.json`; gate biases in float32 beside bfloat16."""
    words = random_words(parent, seed=3)
    for name in words:
        if name.endswith("e_score_correction_bias"):
            words[name] = Tensor.of(np.linspace(-1, 1, parent.size("experts"), dtype=np.float32))
    random = np.random.default_rng(1)
    mtp = Prediction("*E").tensors(parent, parent.full) if prediction else []
    words |= {t.hf: Tensor.of(random.random(t.shape, np.float32)) for t in mtp}
    folder.mkdir()
    write_checkpoints({folder: in_memory(parent, parent.full, words, PREDICTION)})
    return folder


def test_a_family_of_even_cuts(tmp_path: Path) -> None:
    folder = plain(tmp_path / "plain", unstriped(LATENT))
    (tmp_path / "block.json").write_text(json.dumps(BLOCK))
    out = printed("init", folder, "--config", tmp_path / "block.json", "--out", tmp_path / "family")
    family = Family.load(tmp_path / "family")
    blocks = [family.parent.axis(axis).blocks for axis in ("experts", "expert_ffn", "shared_ffn")]
    assert blocks == [2, 1, 1]  # what the block says; where nothing sorts the weights, a member keeps the front
    mid, low = (family.member(name).subnet for name in ("mid", "low"))
    assert active_parameters(family.parent, mid) <= 6000 < active_parameters(family.parent, family.parent.full)
    assert parameters(family.parent, low) <= 0.5 * parameters(family.parent, family.parent.full)
    data = json.loads((tmp_path / "family" / "elastic.json").read_text())["members"]["mid"]
    assert data["active_parameters"] == active_parameters(family.parent, mid) and data["budget"] == {
        "active_params": 6000
    }
    assert "stripes experts 2, expert_ffn 1, shared_ffn 1: " in out
    assert f"{data['active_parameters']:,}" in printed("inspect", tmp_path / "family")
    small = tmp_path / "small"
    cut = json.loads(printed("slice", tmp_path / "family", "--active-params", "6000", "--out", small, "--json"))
    assert cut["active_parameters"] <= 6000 and cut["request"]["option"] == "--active-params"
    card = (small / "README.md").read_text()
    assert f"| active parameters | {cut['active_parameters']:,} |" in card
    assert open_source(small).tensors["backbone.layers.1.mixer.gate.e_score_correction_bias"].dtype == "F32"


def test_no_cast_rounds_the_biases_of_experts(tmp_path: Path) -> None:
    """Of parent, member and layers that predict: float32 as they were, beside weights in what was asked for."""
    parent, small = unstriped(MOE), unstriped(MOE).uniform([0, 1, 3], hidden=12, experts=4)
    values = large_biases(random_values(parent))
    write(tmp_path / "family", parent, {"small": small}, tensors=values)
    whole = open_source(tmp_path / "family").tensors
    for member, subnet in (("full", parent.full), ("small", small)):
        out = slice_checkpoint(tmp_path / "family", tmp_path / member, member=member, dtype="bf16").out
        actual = open_source(out)
        for key, raw in actual.tensors.items():
            assert raw.dtype == ("F32" if is_exact(key) else "BF16"), key
        bias = "backbone.layers.1.mixer.gate.e_score_correction_bias"
        kept = slice(subnet.by_index[1].widths["experts"])
        np.testing.assert_array_equal(actual.tensors[bias].words, whole[bias].words[kept])
        checks = {check.name: check for check in verify(out, parent=tmp_path / "family").checks}
        assert all(check.ok is not False for check in checks.values()), checks
    # a folder whose biases somebody rounded is no cut of it
    rounded = {name: torch.from_numpy(value).bfloat16() for name, value in values.items()}
    write(tmp_path / "rounded", parent, {"small": small}, tensors=rounded)
    out = slice_checkpoint(tmp_path / "rounded", tmp_path / "rounded-small", member="small").out
    checks = {check.name: check for check in verify(out, parent=tmp_path / "family", forward=False).checks}
    assert checks["cut of the parent"].ok is False
    mtp = slice_checkpoint(
        plain(tmp_path / "mtp", parent, prediction=True), tmp_path / "out", subnet=parent.full, dtype="bf16"
    )
    for key, raw in mtp_of(mtp.out).items():
        assert raw.dtype == ("F32" if key == "mtp.layers.1.mixer.gate.e_score_correction_bias" else "BF16"), key


def test_tensors_of_prediction_layers_that_no_config_tells_of(tmp_path: Path) -> None:
    folder = plain(tmp_path / "plain", unstriped(MOE), prediction=True)
    edit_json(folder / "config.json", num_nextn_predict_layers=0)
    with pytest.raises(ElasticError, match=r"tensor 'mtp\.layers\.0\.eh_proj\.weight' is no part of this model"):
        open_source(folder)


def test_formats_without_experts_say_so(tmp_path: Path) -> None:
    write(tmp_path / "family", MOE)
    message = r"member: 'MEM\*E' is not allowed; .*NeMo 2\.7, on megatron-core 0\.15"
    with pytest.raises(ElasticError, match=message):
        slice_checkpoint(tmp_path / "family", tmp_path / "out", member="full", format="nemo")
    assert not (tmp_path / "out").exists()


@pytest.mark.nemo
def test_a_member_goes_through_megatrons_format_and_back(tmp_path: Path) -> None:
    parent = LATENT
    member = parent.uniform([0, 1, 3, 4], experts=4, expert_ffn=8, shared_ffn=8, hidden=12)
    mixed = {n: v if is_exact(n) else torch.from_numpy(v).bfloat16()
             for n, v in large_biases(random_values(parent)).items()}  # fmt: skip
    write(tmp_path / "mixed", parent, tensors=mixed)
    for format in ("hf", "megatron"):
        slice_checkpoint(tmp_path / "mixed", tmp_path / format, subnet=member, format=format)
    printed("convert", tmp_path / "megatron", "--format", "hf", "--out", tmp_path / "back")
    wanted, actual, back = (open_source(tmp_path / name) for name in ("hf", "megatron", "back"))
    assert (actual.subnet.pattern, actual.parent.size("experts")) == ("ME*E", 4)
    assert actual.tensors.keys() == wanted.tensors.keys()
    for name, raw in wanted.tensors.items():
        for other in (actual.tensors[name], back.tensors[name]):
            assert other.dtype == raw.dtype == ("F32" if is_exact(name) else "BF16")
            np.testing.assert_array_equal(other.words, raw.words)
    uneven = Subnet(parent.hidden, (*parent.full.layers[:4], parent.layer(4, experts=4)))
    with pytest.raises(ElasticError, match=r"member: 'MEM\*E' is not allowed; one width in all layers"):
        slice_checkpoint(tmp_path / "mixed", tmp_path / "out", subnet=uneven, format="megatron")
