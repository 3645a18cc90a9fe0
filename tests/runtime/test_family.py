# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in memory once: every member runs on slices of the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.export.family_folder import write_family
from nemo_elastic.export.slicer import slice_checkpoint
from nemo_elastic.export.write import entries_of, write_model
from nemo_elastic.manifest import Family
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.runtime import FamilyRuntime, load_family, members_of
from tests.shapes import PARENT

MIDDLE = PARENT.uniform(keep=(0, 1, 3, 4), hidden=12, ffn=12, mamba_heads=4)
SMALL = PARENT.uniform(keep=(0, 3, 4), hidden=8, ffn=8, mamba_heads=2, mamba_head_dim=2, attention_heads=2)
MEMBERS = {"12b": PARENT.full, "9b": MIDDLE, "6b": SMALL}
TOKENS = torch.randint(PARENT.vocab, (2, 9), generator=torch.Generator().manual_seed(0))


def model(dtype: torch.dtype = torch.float32, **changes) -> NemotronH:
    return NemotronH.random(replace(PARENT, **changes), seed=3, dtype=dtype)


def write(path, weights: NemotronH):
    return write_family(path, weights.parent, weights.state_dict(), Family.of(weights.parent, MEMBERS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("family") / "family", model())


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_every_member_is_the_slice_of_the_model_that_was_written(folder, lean, mmap):
    family = load_family(folder, lean=lean, mmap=mmap)
    assert family.names == ("12b", "9b", "6b") and family.parent == PARENT and family.held == PARENT.full
    for name, subnet in MEMBERS.items():
        member = family.select(name)
        with torch.no_grad():
            expected = model()(TOKENS, subnet)
        assert torch.equal(member(TOKENS), expected) and not member(TOKENS).requires_grad
        assert member.generate(TOKENS[:, :3], 4) == model().generate(TOKENS[:, :3], 4, choice=subnet)
        assert (member.name, member.subnet) == (name, subnet)


def test_a_selection_is_made_once_and_any_shape_can_be_selected(folder):
    family = load_family(folder)
    assert family.select("6b") is family.select("6b") is family.select(SMALL)
    assert family.select() is family.select("12b") is family.select(PARENT.full)
    other = PARENT.uniform(keep=(1, 2), hidden=5, ffn=4)
    assert family.select(other).name is None
    assert torch.equal(family.select(other)(TOKENS), model()(TOKENS, other))
    kept = family.select("6b")
    family.release()
    assert family.select("6b") is not kept
    assert torch.equal(kept(TOKENS), family.select("6b")(TOKENS))


def test_weights_are_held_once(folder):
    """Prefixes are views of the held weights; only gathers take memory, and lean families keep none of them."""
    family = load_family(folder)
    total = sum(p.numel() * 4 for p in model().parameters())
    assert family.nbytes == total
    narrow = PARENT.uniform(keep=(0, 1, 3), hidden=6)
    family.select("12b"), family.select(narrow)
    assert family.slice_bytes == 0
    table = family.model.get_parameter("backbone.embeddings.weight")
    assert family.select(narrow).weights.embedding.data_ptr() == table.data_ptr()
    family.select("6b")
    small_layers = sum(t.numel() * 4 for w in family.select("6b").weights.layers for t in w.tensors.values())
    assert 0 < family.slice_bytes <= small_layers
    lean = load_family(folder, lean=True)
    lean.select("6b")(TOKENS)
    assert lean.slice_bytes == 0


def test_an_exported_member_runs_as_the_selected_one(folder, tmp_path):
    family = load_family(folder)
    slice_checkpoint(folder, tmp_path / "9b", member="9b")
    cut = load_family(tmp_path / "9b")
    assert cut.names == ("9b",) and cut.held == MIDDLE and cut.parent == PARENT
    assert torch.equal(cut.select("9b")(TOKENS), family.select("9b")(TOKENS))
    inside = replace(MIDDLE, hidden=7)
    assert torch.equal(cut.select(inside)(TOKENS), family.select(inside)(TOKENS))
    with pytest.raises(ElasticError, match="not nested"):
        cut.select(PARENT.full)


def test_a_plain_folder_is_a_family_of_one(tmp_path):
    weights = model(tied=True)  # the file of a tied model has its head as well
    parent = weights.parent
    (tmp_path / "plain").mkdir()
    write_model(tmp_path / "plain", parent, parent.full, entries_of(parent, parent.full, weights.state_dict()))
    family = load_family(tmp_path / "plain")
    assert family.names == ("full",) and family.parent.tied
    assert torch.equal(family.select()(TOKENS), weights(TOKENS))
    assert torch.equal(family.select("full")(TOKENS), weights(TOKENS))


def test_dtypes(tmp_path):
    half = NemotronH(PARENT, {k: v.bfloat16() for k, v in model().state_dict().items()})
    path = write(tmp_path / "half", half)
    assert load_family(path).select("9b")(TOKENS).dtype == torch.bfloat16
    assert torch.equal(load_family(path).select("9b")(TOKENS), half(TOKENS, MIDDLE))
    single = load_family(path, dtype=torch.float32)
    assert single.nbytes == 2 * load_family(path).nbytes
    upcast = NemotronH(PARENT, {k: v.float() for k, v in half.state_dict().items()})
    assert torch.equal(single.select("6b")(TOKENS), upcast(TOKENS, SMALL))
    eight = {k: v.to(torch.float8_e4m3fn) for k, v in model().state_dict().items()}
    path = write_family(tmp_path / "eight", PARENT, eight, Family.of(PARENT, MEMBERS))
    stored = NemotronH(PARENT, {k: v.bfloat16() for k, v in eight.items()})
    assert torch.equal(load_family(path).select("6b")(TOKENS), stored(TOKENS, SMALL))


def test_a_runtime_of_a_model_in_memory():
    weights = model()
    family = FamilyRuntime(weights, {"all": PARENT.full, "some": MIDDLE})
    assert torch.equal(family.select("some")(TOKENS), weights(TOKENS, MIDDLE))
    assert FamilyRuntime(weights).names == ("full",)
    held = FamilyRuntime(weights.submodel(MIDDLE))
    assert held.select().subnet == MIDDLE
    with pytest.raises(ElasticError, match="'all': subnet: not nested"):
        FamilyRuntime(weights.submodel(MIDDLE), {"all": PARENT.full})


def test_what_is_refused(folder, tmp_path):
    family = load_family(folder)
    with pytest.raises(ElasticError, match=r"'6B' is not in this family; did you mean '6b'\? it has 12b, 9b, 6b"):
        family.select("6B")
    with pytest.raises(ElasticError, match="multiples of 2"):
        family.select(replace(SMALL, layers=(PARENT.layer(0, heads=3),)))
    with pytest.raises(ElasticError, match="existing folder"):
        load_family(tmp_path / "nothing")


def test_members_of_an_opened_folder(folder):
    from nemo_elastic.export.hf import open_source

    source = open_source(folder)
    assert members_of(source) == MEMBERS
    assert load_family(source).names == tuple(MEMBERS)


def test_load_family_is_a_public_name():
    import nemo_elastic

    assert nemo_elastic.load_family is load_family
