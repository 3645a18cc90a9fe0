# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in memory once: every member runs on slices of the same weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from nemo_elastic.core.cost import MemorySpec, cache_elements, memory
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime, load_family, members_of
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.shapes import MOE, PARENT
from tests.slicing.helpers import contents, large_biases, random_values

MIDDLE = PARENT.uniform(keep=(0, 1, 3, 4), hidden=12, ffn=12, mamba_heads=4)
SMALL = PARENT.uniform(keep=(0, 3, 4), hidden=8, ffn=8, mamba_heads=2, mamba_head_dim=2, attention_heads=2)
MEMBERS = {"12b": PARENT.full, "9b": MIDDLE, "6b": SMALL}
#: matrices in which a width of these members is several blocks
BLOCKED = ("in_proj", "out_proj", "up_proj", "down_proj", "q_proj", "o_proj")
TOKENS = torch.randint(PARENT.vocab, (2, 9), generator=torch.Generator().manual_seed(0))


def model(dtype: torch.dtype = torch.float32, **changes) -> NemotronH:
    return NemotronH.random(replace(PARENT, **changes), seed=3, dtype=dtype)


def close(a: torch.Tensor, b: torch.Tensor, rounding: float = 1e-11) -> bool:
    """Equal but for the order of sums, which follows the order in which the family stores its channels."""
    return a.dtype == b.dtype and (a - b).abs().max().item() <= rounding * b.abs().max().item()


def write(path, weights: NemotronH):
    return write_family(path, weights.parent, weights.state_dict(), Family.of(weights.parent, MEMBERS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("family") / "family", model(torch.float64))


def test_a_selection_is_made_once_and_any_shape_can_be_selected(folder):
    family = load_family(folder)
    assert family.select("6b") is family.select("6b") is family.select(SMALL)
    assert family.select() is family.select("12b") is family.select(PARENT.full)
    for ffn in (4, 8):  # one width is enough for another model
        other = PARENT.uniform(keep=(1, 2), hidden=5, ffn=ffn)
        assert family.select(other).name is None
        assert close(family.select(other)(TOKENS), model(torch.float64)(TOKENS, other))
    kept = family.select("6b")
    family.release()
    assert family.select("6b") is not kept
    assert torch.equal(kept(TOKENS), family.select("6b")(TOKENS))


def test_only_mmap_leaves_weights_in_the_files(folder, tmp_path):
    """What the files hold after loading matters to it alone, and to what needs no other order."""
    path = shutil.copytree(folder, tmp_path / "family")
    copied, mapped = load_family(path), load_family(path, mmap=True)
    logits, names = copied.select("6b")(TOKENS), set(copied.model.state_dict())
    assert close(mapped.select("6b")(TOKENS), logits)
    for file in path.glob("*.safetensors"):
        with file.open("r+b") as words:
            words.write(bytes(file.stat().st_size))
    assert torch.equal(copied.select("6b")(TOKENS), logits)
    assert all(p.any() for p in copied.model.parameters())
    lost = {name for name, p in mapped.model.named_parameters() if not p.any()}
    cut = {n for n in names if ".layers.2." not in n}  # that layer is the parent's alone
    assert names - lost == {n for n in cut if n.split(".")[-2] in BLOCKED}


def test_dtypes(tmp_path):
    half = NemotronH(PARENT, {k: v.bfloat16() for k, v in model().state_dict().items()})
    path = write(tmp_path / "half", half)
    assert close(load_family(path).select("9b")(TOKENS), half(TOKENS, MIDDLE), 0.03)
    assert load_family(path, dtype=torch.float16).select("6b")(TOKENS).dtype == torch.float16
    double = load_family(path, dtype=torch.float64)
    assert double.nbytes == 4 * load_family(path).nbytes
    upcast = NemotronH(PARENT, {k: v.double() for k, v in half.state_dict().items()})
    assert close(double.select("6b")(TOKENS), upcast(TOKENS, SMALL))
    eight = {k: v.to(torch.float8_e4m3fn) for k, v in model().state_dict().items()}
    path = write_family(tmp_path / "eight", PARENT, eight, Family.of(PARENT, MEMBERS))
    stored = NemotronH(PARENT, {k: v.bfloat16() for k, v in eight.items()})
    assert close(load_family(path).select("6b")(TOKENS), stored(TOKENS, SMALL), 0.03)


def test_biases_of_experts_are_not_rounded(tmp_path):
    dtype = torch.bfloat16
    values, small = large_biases(random_values(MOE)), MOE.uniform(experts=4, hidden=12)
    path = write_family(tmp_path / "family", MOE, values, Family.of(MOE, {"big": MOE.full, "small": small}))
    family, spec = load_family(path, dtype=dtype), MemorySpec(length=1)
    cache = cache_elements(MOE, MOE.full, 1, 1)
    state = 2 * (cache["kv"] + cache["conv"]) + 4 * cache["ssm"]
    assert family.nbytes == memory(MOE, MOE.full, spec) - state
    for name, experts in (("big", slice(8)), ("small", [0, 1, 4, 5])):
        for layer, cut in zip(family.select(name).weights.member.layers, family.select(name).weights.layers):
            if layer.type == "moe":
                whole = values[f"backbone.layers.{layer.index}.mixer.gate.e_score_correction_bias"]
                assert cut["gate_bias"].dtype is torch.float32 and cut["gate"].dtype is dtype
                np.testing.assert_array_equal(cut["gate_bias"].numpy(), whole[experts])


def test_a_runtime_of_a_model_in_memory():
    weights = model(torch.float64)
    family = FamilyRuntime(weights, {"all": PARENT.full, "some": MIDDLE})
    assert close(family.select("some")(TOKENS), weights(TOKENS, MIDDLE))
    assert FamilyRuntime(weights).names == ("full",)
    held = FamilyRuntime(weights.submodel(MIDDLE))
    assert held.select().subnet == MIDDLE
    with pytest.raises(ElasticError, match="'all': subnet: not nested"):
        FamilyRuntime(weights.submodel(MIDDLE), {"all": PARENT.full})


def test_what_is_refused(folder, tmp_path):
    family = load_family(folder)
    with pytest.raises(ElasticError, match=r"did you mean '6b'\? its members are 12b, 9b, 6b"):
        family.select("6B")
    with pytest.raises(ElasticError, match=r"^member: "):
        family.select(b"6b")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ElasticError, match="multiples of 2"):
        family.select(replace(SMALL, layers=(PARENT.layer(0, mamba_heads=3),)))
    with pytest.raises(ElasticError, match="nothing: no such folder"):
        load_family(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, "float32"])
def test_a_dtype_in_which_no_model_computes(folder, dtype):
    with pytest.raises(ElasticError, match=r"^dtype: "):
        load_family(folder, dtype=dtype)


def test_weights_that_are_whole_numbers_are_refused(tmp_path):
    """A quantized file without its scales: every shape is right, and every logit would be wrong."""
    state = {k: (v * 10).to(torch.int8) for k, v in model().state_dict().items()}
    path = write_family(tmp_path / "quantized", PARENT, state, Family.of(PARENT, MEMBERS))
    with pytest.raises(ElasticError, match="is not allowed; weights are floating-point numbers"):
        load_family(path)


def test_an_extra_shape_is_selected_by_its_name_and_moves_nothing(tmp_path):
    own = PARENT.uniform(keep=(0, 2, 4), ffn=12, mamba_heads=2)  # neither in a member nor around one
    made = Family.of(PARENT, MEMBERS).with_extra("code", own)
    folder = write_family(tmp_path / "family", PARENT, model(torch.float64).state_dict(), made)
    family, plain = load_family(folder), load_family(write(tmp_path / "plain", model(torch.float64)))
    assert family.names == ("12b", "9b", "6b", "code") and members_of(open_source(folder))["code"] == own
    assert family.select("code").subnet == own and family.select(own).name == "code"
    assert close(family.select("code")(TOKENS), model(torch.float64)(TOKENS, own))
    for name in MEMBERS:
        assert torch.equal(family.select(name)(TOKENS), plain.select(name)(TOKENS))
    cut = slice_checkpoint(folder, tmp_path / "cut", member="code")
    assert (cut.member, cut.subnet) == ("code", own)
    assert close(load_family(tmp_path / "cut").select("code")(TOKENS), family.select("code")(TOKENS))
    assert slice_checkpoint(folder, tmp_path / "same", subnet=own).member == "code"
    # a member's folder knows the extras of its family, too; what lies inside of it can be cut out
    inner = Family.of(PARENT, MEMBERS).with_extra("tiny", PARENT.uniform(keep=(0, 3), hidden=8))
    inner = inner.with_extra("inside", PARENT.uniform(keep=(0, 1), hidden=8, ffn=12, mamba_heads=4))
    slice_checkpoint(write_family(tmp_path / "b", PARENT, model().state_dict(), inner), tmp_path / "9b", member="9b")
    with pytest.raises(ElasticError, match="not inside"):
        slice_checkpoint(tmp_path / "9b", tmp_path / "c", member="tiny")
    for source in ("9b", "b"):
        slice_checkpoint(tmp_path / source, tmp_path / f"of-{source}", member="inside")
    assert contents(tmp_path / "of-9b") == contents(tmp_path / "of-b")


# ------------------------------------------------------------------ several threads


def test_a_release_between_the_looks_of_a_selection() -> None:
    """Whatever was selected is released at once, as another thread may do."""

    class Released(dict):
        def setdefault(self, key, value=None):
            actual = super().setdefault(key, value)
            self.clear()
            return actual

        def __contains__(self, key) -> bool:
            actual = super().__contains__(key)
            self.clear()
            return actual

    family = FamilyRuntime(model(), MEMBERS)
    kept = family.select("6b")
    family._selected = Released(family._selected)
    for _ in range(2):
        assert torch.equal(family.select("6b")(TOKENS), kept(TOKENS))
