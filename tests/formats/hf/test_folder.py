# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Opening folders: in every form that they come in, and never a broken one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from safetensors.numpy import load_file, save_file

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import check_tensors
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.hf.reading import MEMBER_FILE, open_tensors
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.shapes import PARENT
from tests.slicing.helpers import edit_json, random_values, write

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)
UP = "backbone.layers.1.mixer.up_proj.weight"


@pytest.fixture
def family(tmp_path):
    return write(tmp_path / "family", PARENT, {"small": SMALL}, tensors=random_values(PARENT))


@pytest.fixture
def small(family, tmp_path):
    slice_checkpoint(family, tmp_path / "small", member="small")
    return tmp_path / "small"


def rewrite(folder, change):
    """Write the weights anew with the safetensors library after `change` has had the dict."""
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_family_a_member_and_a_plain_model(family, small):
    source = open_source(family)
    assert (source.parent, source.subnet, source.dtype) == (PARENT, PARENT.full, "F32")
    assert source.family is not None and list(source.members) == ["full", "small"]
    source = open_source(small)
    assert (source.parent, source.subnet, source.family) == (PARENT, SMALL, None)
    assert source.members == {"small": SMALL} and source.origin.provenance == {"made_by": "a test"}
    shapes = read_shapes(small)
    assert (shapes.parent, shapes.subnet, shapes.config["hidden_size"]) == (PARENT, SMALL, 8)
    (small / MEMBER_FILE).unlink()
    source = open_source(small)  # without that file it is a parent of its own
    assert source.parent.hidden == 8 and source.subnet == source.parent.full and list(source.members) == ["model"]


def test_shapes_need_no_weights(family):
    (family / "model.safetensors").unlink()
    assert read_shapes(family).subnet == PARENT.full
    with pytest.raises(ElasticError, match="has no weights"):
        open_source(family)
    (family / "config.json").write_text("[]")
    with pytest.raises(ElasticError, match=r"config.json: not a model's config"):
        read_shapes(family)


@pytest.fixture
def sharded(tmp_path):
    return write(tmp_path / "sharded", PARENT, shard_bytes=4000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (lambda m, other=other: m.update({UP: other}), "is not allowed; names of .safetensors files in the same")
            for other in ("../sharded/model-00001-of-00004.safetensors", "config.json", 5)
        ),
        (lambda m: m.update({UP: "gone.safetensors"}), "gone.safetensors: no such file"),
        (lambda m: m.pop(UP), f"'{UP}' is in that file but not in the index"),
        (lambda m: m.update({"x": m[UP]}), "'x' is not in that file"),
        (lambda m: m.clear(), "has no weight_map"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit(sharded, change, message):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    with pytest.raises(ElasticError, match=message) as caught:
        open_source(sharded)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(UP), f"tensor '{UP}' is missing"),
        (lambda t: t.update({UP.replace("backbone.", "model."): t[UP]}), "appears twice, with and without the prefix"),
        (lambda t: t.update(x=t[UP]), "tensor 'x' is no part of this model"),
        (lambda t: t.update({UP: t[UP][:, :5].copy()}), r"has shape \[16, 5\], not \[16, 16\]"),
    ],
)
def test_tensors_that_are_not_the_models(family, change, message):
    rewrite(family, change)
    with pytest.raises(ElasticError, match=message):
        open_source(family)


def test_files_that_describe_different_models(small):
    edit_json(small / "config.json", hidden_size=7)
    with pytest.raises(ElasticError, match=r"config.json and elastic_member.json describe different models"):
        open_source(small)


@pytest.mark.parametrize(
    "changes", [{"name": "../x"}, {"ranking": "ab12\n# x"}, {"parent": {}}, {"subnet": {"hidden": 99, "layers": []}}]
)
def test_a_wrong_member_file(small, changes):
    edit_json(small / MEMBER_FILE, **changes)
    with pytest.raises(ElasticError) as caught:
        open_source(small)
    assert caught.value.message.startswith(f"{small / MEMBER_FILE}: ") and "\n" not in caught.value.message


def test_a_tied_head_may_be_left_out_but_not_differ(tmp_path):
    tied = replace(PARENT, tied=True)
    folder = write(tmp_path / "tied", tied, tensors=random_values(tied))
    with_head = open_source(folder).tensors
    assert "lm_head.weight" in with_head

    def differ(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].copy()
        tensors["lm_head.weight"][3, 3] += 1

    rewrite(folder, differ)
    with pytest.raises(ElasticError, match=r"lm_head.weight is not the embedding"):
        open_source(folder)
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    without = open_source(folder)
    check_tensors(without)
    slice_checkpoint(folder, tmp_path / "cut", member="full")
    assert "lm_head.weight" in open_tensors(tmp_path / "cut")
    rewrite(folder, lambda tensors: tensors.pop("backbone.embeddings.weight"))
    with pytest.raises(ElasticError, match=r"backbone\.embeddings\.weight' is missing"):
        open_source(folder)
