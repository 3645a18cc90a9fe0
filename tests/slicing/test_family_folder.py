# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Family folders: written from memory, or made from a parent without training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import open_tensors
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.ranking import sort
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.untrained import init_family
from tests.ranking.test_sorting import shuffled, unstriped
from tests.shapes import PARENT
from tests.strategies import parents

from .helpers import contents, plain_of, random_values, random_words, scratch, write

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)
FAMILY = Family.of(PARENT, {"big": PARENT.full, "small": SMALL}, ranking_digest="ab" * 32, provenance={"tokens": 7})
BLOCK = {
    "budgets": [{"name": "big"}, {"name": "mid", "ratio": 0.8}, {"name": "low", "params": 3400}],
    "axes": {"hidden": [16, 12, 8], "ffn": {"choices": [16, 12, 8, 4], "stripes": 4}, "depth": [5, 4, 3]},
}


def config(**other) -> ElasticConfig:
    return ElasticConfig.from_dict(BLOCK | other)


@pytest.fixture
def plain(tmp_path):
    return plain_of(write(tmp_path / "made", PARENT), tmp_path / "plain")


def test_what_is_written(tmp_path):
    values = random_values(PARENT)
    reports = []
    out = write_family(tmp_path / "family", PARENT, values, FAMILY, progress=lambda *at: reports.append(at))
    source = open_source(out)
    assert source.family == FAMILY and source.subnet == PARENT.full
    assert all(np.array_equal(source.tensors[n].numpy(), v) for n, v in values.items())
    assert reports[-1][0] == reports[-1][1] == 4 * FAMILY.members[0].parameters
    card = (out / "README.md").read_text()
    assert "nemo-elastic slice . --member small" in card and "ab" * 32 in card and '"tokens": 7' in card
    assert all(f"{m.parameters:,}" in card for m in FAMILY)
    with pytest.raises(ElasticError, match="already exists"):
        write_family(out, PARENT, values, FAMILY)
    write_family(out, PARENT, values, FAMILY, force=True)


def test_numpy_torch_and_words_make_the_same_folder(tmp_path):
    values = random_values(PARENT)
    tensors = {n: torch.from_numpy(v) for n, v in values.items()}
    words = {n: Tensor.of(t) for n, t in tensors.items()}
    folders = [
        contents(write_family(tmp_path / str(i), PARENT, t, FAMILY)) for i, t in enumerate((values, tensors, words))
    ]
    assert folders[0] == folders[1] == folders[2]
    half = {n: t.bfloat16() for n, t in tensors.items()}
    out = write_family(tmp_path / "half", PARENT, half, FAMILY)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    name = "backbone.layers.0.mixer.in_proj.weight"
    np.testing.assert_array_equal(open_tensors(out)[name].numpy(), half[name].float().numpy())


def test_tensors_of_something_else(tmp_path):
    values = random_values(PARENT)
    for change, message in (
        ({"x": np.zeros(3)}, "'x' is no part"),
        ({"lm_head.weight": np.zeros((32, 16), complex)}, "complex128 cannot be stored"),
    ):
        with pytest.raises(ElasticError, match=message):
            write_family(tmp_path / "out", PARENT, values | change, FAMILY)
    with pytest.raises(ElasticError, match="its parent has another shape"):
        write_family(tmp_path / "out", replace(PARENT, ffn_stripes=2), values, FAMILY)
    with pytest.raises(ElasticError, match="tokenizer_dir"):
        write_family(tmp_path / "out", PARENT, values, FAMILY, tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_is_no_number(tmp_path):
    with pytest.raises(ElasticError, match=r"config.json: a setting of the source is not a finite number"):
        write_family(tmp_path / "out", PARENT, random_values(PARENT), FAMILY, base={"initializer_range": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_init_makes_even_members(plain, tmp_path):
    family = init_family(plain, config(), tmp_path / "family")
    assert Family.load(tmp_path / "family") == family and family.names == ("big", "mid", "low")
    for member, limit in zip(family, (1, 0.8, None)):
        assert member.subnet.is_uniform
        assert member.parameters <= (limit * family.members[0].parameters if limit else 3400)
    assert family.parent.ffn_stripes == 4 and family.ranking_digest is None
    assert family.provenance["parent"] == "plain" and family.provenance["training"] is None
    assert family.members[1].budget == {"ratio": 0.8}
    before, after = open_tensors(plain), open_tensors(tmp_path / "family")
    assert all(np.array_equal(after[n].words, raw.words) for n, raw in before.items())


@settings(max_examples=20)
@given(st.data())
def test_init_sorts_by_a_ranking(data):
    parent = unstriped(data.draw(parents(max_layers=4)))
    words = random_words(parent)
    with scratch() as place:
        plain = open_source(plain_of(write(place / "made", parent, tensors=words), place / "plain")).parent
        ranking = shuffled(plain, data.draw(st.integers(0, 9)))
        ranking.save(place / "ranking")
        block = {"budgets": [{"name": "big"}, {"name": "low", "ratio": 0.999}], "axes": {"hidden": [parent.hidden, 1]}}
        family = init_family(place / "plain", ElasticConfig.from_dict(block), place / "family", place / "ranking")
        assert family.ranking_digest == ranking.digest
        read = open_tensors(place / "family")
        wanted = sort({n: raw.words for n, raw in words.items()}, ranking, family.parent)
        assert all(np.array_equal(read[n].words, w) for n, w in wanted.items())


def test_init_drops_the_layers_that_the_ranking_drops(plain, tmp_path):
    ranking = replace(shuffled(open_source(plain).parent, 0), depth=(1, 3, 0, 2, 4))
    ranking.save(tmp_path / "ranking")
    block = {"budgets": [{"name": "big"}, {"name": "low", "ratio": 0.85}], "axes": {"depth": [5, 4, 3]}}
    family = init_family(plain, ElasticConfig.from_dict(block), tmp_path / "family", tmp_path / "ranking")
    dropped = set(range(5)) - set(family.members[1].subnet.kept)
    assert dropped and dropped == set((1, 0, 2)[: len(dropped)])  # 3 is its one attention layer
    assert family.drop_order == (1, 0, 2, 4, 3)


def test_init_takes_fixed_shapes(plain, tmp_path):
    block = config(shapes=str(tmp_path / "shapes.json"))
    mid, low = PARENT.uniform(hidden=12, ffn=12), PARENT.uniform([0, 3], hidden=8)

    def shapes(**members):
        (tmp_path / "shapes.json").write_text(json.dumps({"members": {n: s.to_json() for n, s in members.items()}}))

    shapes(big=PARENT.full, mid=mid, low=low)
    family = init_family(plain, block, tmp_path / "family")
    assert [m.subnet for m in family] == [PARENT.full, mid, low]
    for members, message in (
        ({"mid": mid}, r"members\.low: missing"),
        ({"mid": PARENT.full, "low": low}, r"members\.mid: .*its budget is"),
        ({"mid": low, "low": PARENT.uniform([0, 1], hidden=8)}, "not nested in the member before it"),
    ):
        shapes(**members)
        with pytest.raises(ElasticError, match=message):
            init_family(plain, block, tmp_path / "other")
    (tmp_path / "shapes.json").write_text("[]")
    with pytest.raises(ElasticError, match="a JSON file"):
        init_family(plain, block, tmp_path / "other")
    assert not (tmp_path / "other").exists()
