# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in low precision: its codes are ModelOpt's, a member's are the family's cut, and both compute the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core import layout
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.precision import default_rows
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.low_precision import stored_scale
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, scheme_of
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.low_precision import fp8_codes, global_scale, nvfp4_codes, rounded_state
from nemo_elastic.nn.weights import random_state
from nemo_elastic.quantize.activations import largest_inputs
from nemo_elastic.quantize.writing import quantize_folder, torn_members
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.cutting import Rounding, cut, kept_parts
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.untrained import init_family
from nemo_elastic.slicing.verification import verify
from tests.formats.megatron import test_bridge_folder as bridge
from tests.hosts.nemo import checkpoints as nemo
from tests.slicing.helpers import plain_of, run

from .conftest import PARENT, family_of
from .damage import with_tensors, word

BOTH = pytest.mark.parametrize(("precision", "layout_"), [(p, x) for p in ("nvfp4", "fp8") for x in LAYOUTS])
TOKENS_BL = torch.arange(24)[None] * 5 % 96


def quantized(source: Path, out: Path, precision: str, layout_: str = MODELOPT, **more: Any) -> Path:
    if (precision, layout_) == ("fp8", MODELOPT):
        more = {"ranges": {}} | more  # which has no words for inputs without scales
    quantize_folder(source, out, scheme_of(precision, layout_), **more)
    return out


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model whose MLP has the widths of a 1B's."""
    parent = replace(PARENT, pattern="M-", hidden=2048, ffn=8192, ffn_stripes=1)
    return open_source(family_of(tmp_path_factory.mktemp("wide") / "family", parent, {}))


def codes_of(weights: Checkpoint, name: str) -> list[torch.Tensor]:
    """Codes, and where a block has a scale these."""
    scheme = weights.storage[name].scheme
    names = (scheme.codes[0], *((scheme.scale[0],) if scheme.block else ()))
    return [weights.parts(name)[part].torch().view(torch.uint8) for part in names]


def codes_by_hand(w_rc: torch.Tensor, scale: torch.Tensor, precision: str) -> list[torch.Tensor]:
    codes = nvfp4_codes(w_rc, scale) if precision == "nvfp4" else (fp8_codes(w_rc, scale),)
    return [t.view(torch.uint8) for t in codes]


def values_of(source: Checkpoint, name: str) -> torch.Tensor:
    return source.torch(name)


@pytest.mark.parametrize(
    ("which", "precision", "layout_"),
    [
        ("dense", "nvfp4", MODELOPT),
        ("dense", "fp8", COMPRESSED),
        ("sparse", "nvfp4", COMPRESSED),
    ],
)
def test_a_member_is_what_quantising_its_cut_gives(
    which: str, precision: str, layout_: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Byte for byte, for each weight of low precision: cut the codes, or code the cut under the whole's scale."""
    plain = open_source(request.getfixturevalue(which))
    family = quantized(plain.folder, tmp_path / "low", precision, layout_)
    (member,) = [name for name in plain.members if name != "full"]
    slice_checkpoint(family, tmp_path / "cut", member=member)
    slice_checkpoint(plain, tmp_path / "plain", member=member)
    cut, high = open_source(tmp_path / "cut"), open_source(tmp_path / "plain")
    where, seen = kept_parts(plain, plain.members[member]), set()
    for t in layout.tensors(cut.parent, cut.subnet):
        if t.hf not in cut.storage:
            assert torch.equal(values_of(cut, t.hf), values_of(high, t.hf)), t.hf
            continue
        scale = global_scale(values_of(plain, where[t.hf][0]), precision)
        wanted = codes_by_hand(values_of(high, t.hf), scale, precision)
        assert all(map(torch.equal, codes_of(cut, t.hf), wanted)), t.hf
        own = stored_scale(cut.storage[t.hf], cut.parts(t.hf))
        assert float(torch.from_numpy(own)) == pytest.approx(float(scale), rel=1e-6)
        seen.add(t.row.name)
    assert seen == {name for name, index in default_rows(plain.parent)}


@BOTH
def test_its_values_are_those_that_were_trained(precision: str, layout_: str, dense: Path, tmp_path: Path) -> None:
    plain = open_source(dense)
    trained = rounded_state(plain.parent, dict(plain.as_torch()), precision)
    stored = open_source(quantized(dense, tmp_path / "low", precision, layout_)).as_torch()
    assert not [name for name, value in stored.items() if not torch.equal(value, trained[name])]


def test_a_member_without_such_layers_is_in_full_precision(dense: Path, tmp_path: Path) -> None:
    family = quantized(dense, tmp_path / "low", "nvfp4")
    slice_checkpoint(family, tmp_path / "cut", subnet=PARENT.uniform([2, 3]))
    cut = open_source(tmp_path / "cut")
    assert cut.precision is None and "quantization_config" not in cut.config
    assert "nvfp4" in (family / "README.md").read_text().lower()
    assert "nvfp4" not in (tmp_path / "cut" / "README.md").read_text().lower().partition("```json")[0]


@pytest.mark.parametrize("form", ["nemo", "bridge"])
def test_widths_of_real_models_are_quantised_from_every_format(form: str, wide: Checkpoint, tmp_path: Path) -> None:
    """Of a few megabytes each, so that codes and their scales do not go to the writer in one piece."""
    state = dict(wide.as_torch())
    folder = tmp_path / form
    if form == "nemo":
        folder = nemo.store(folder, wide.parent, wide.subnet, state)
    else:
        bridge.store(folder, parent=wide.parent, state=state)
    code, said, error = run("quantize", folder, "--to", "w4a16", "--out", tmp_path / "low", "--json")
    assert code == 0, error
    low = open_source(tmp_path / "low")
    for name in low.storage:
        wanted = codes_by_hand(state[name], global_scale(state[name], "nvfp4"), "nvfp4")
        assert all(map(torch.equal, codes_of(low, name), wanted)), name
    assert len(low.storage) == 4
    record = json.loads(said)
    assert record["bytes_before"] == sum(2 * value.numel() for value in state.values())
    assert record["bytes"] == sum(raw.nbytes for raw in open_source(tmp_path / "low").tensors.values())


def test_a_torn_member_is_refused_or_computed_anew(torn: Path, tmp_path: Path) -> None:
    family = quantized(torn, tmp_path / "low", "nvfp4")
    scheme = scheme_of("nvfp4", MODELOPT)
    source = open_source(family)
    weights = list(source.storage)
    assert torn_members(source, scheme, weights) == {"torn": ["mlp.down"]}
    assert torn_members(source, scheme_of("fp8", MODELOPT), weights) == {}
    with pytest.raises(ElasticError, match=r"mlp.down|down_proj.*cannot be cut as bytes: 144 of 256.*--requantize"):
        slice_checkpoint(family, tmp_path / "cut", member="torn")
    assert not (tmp_path / "cut").exists()
    done = slice_checkpoint(family, tmp_path / "cut", member="torn", requantize=True)
    assert done.requantized is not None and 0.01 < done.requantized < 0.2
    rounding = Rounding()
    written, parts = open_source(tmp_path / "cut"), cut(source, source.members["torn"], True, rounding)
    for tensor in parts.tensors.values():
        list(tensor.pieces())
    anew = sorted({name for name, _ in rounding.changed})
    assert anew and all("down_proj" in name for name in anew)
    where = kept_parts(source, source.members["torn"])
    for name in anew:
        of, (rows, columns) = where[name]
        values_rc = columns.take(rows.take(source.torch(of, torch.float32)), 1)
        wanted = codes_by_hand(
            values_rc, torch.from_numpy(stored_scale(source.storage[of], source.parts(of))), "nvfp4"
        )
        assert all(map(torch.equal, codes_of(written, name), wanted))
    assert verify(tmp_path / "cut", parent=family).ok  # what is computed anew is so again
    checks = {check.name: check for check in verify(family).checks}
    assert checks["torn: cut = masked"].ok is None and "rounded again" in checks["torn: cut = masked"].figure


def test_scales_of_blocks_that_are_no_numbers_are_not_computed_anew(torn: Path, tmp_path: Path) -> None:
    family = quantized(torn, tmp_path / "low", "nvfp4")
    name = "backbone.layers.1.mixer.down_proj.weight"
    broken = with_tensors(
        family, tmp_path / "broken", lambda t: t.update({name + "_scale": word(t[name + "_scale"], (3, 1), 0x7F)})
    )
    with pytest.raises(ElasticError, match=rf"{name}: 1 scales of blocks are negative or not a number"):
        slice_checkpoint(broken, tmp_path / "cut", member="torn", requantize=True)
    assert not (tmp_path / "cut").exists()
    checks = {check.name: check.ok for check in verify(broken).checks}
    assert checks["finite"] is False and checks["logits"] is None


def test_inputs_that_are_no_numbers_have_no_scale(tmp_path: Path) -> None:
    state = random_state(PARENT, PARENT.full, dtype=torch.bfloat16)
    state["backbone.layers.1.mixer.up_proj.weight"] *= 1e38
    folder = write_family(tmp_path / "family", PARENT, state, Family.of(PARENT, {"full": PARENT.full}))
    with pytest.raises(ElasticError, match=r"inputs of mlp\.down in layer 1 are infinite or not a number"):
        largest_inputs(load_family(folder, dtype=torch.float32), [TOKENS_BL])


def test_activations_have_the_largest_input_of_any_member(dense: Path, tmp_path: Path) -> None:
    family = load_family(dense, dtype=torch.float32)
    ranges = largest_inputs(family, [TOKENS_BL])
    assert set(ranges) >= default_rows(family.parent)
    each = [largest_inputs(load_family(dense, dtype=torch.float32), [TOKENS_BL])]
    for name in ("full", "small"):
        slice_checkpoint(dense, tmp_path / name, member=name)
        each.append(largest_inputs(load_family(tmp_path / name, dtype=torch.float32), [TOKENS_BL]))
    for at, most in ranges.items():
        own = [one[at] for one in each[1:] if at in one]
        assert most == pytest.approx(max(own), rel=1e-4), at
    for precision, share, off in (("nvfp4", 6 * 448, 1e-6), ("fp8", 448, 2**-8)):
        low = open_source(quantized(dense, tmp_path / precision, precision, ranges=ranges))
        scale = low.tensors["backbone.layers.1.mixer.up_proj.input_scale"]
        assert float(scale.numpy()) == pytest.approx(ranges["mlp.up", 1] / share, rel=off)


def test_what_stays_and_what_is_said_of_it(dense: Path, tmp_path: Path) -> None:
    """Attention (3), and the Mamba layer before it (2); layer 5 is layer 4 of the member."""
    family = quantized(dense, tmp_path / "low", "nvfp4", ranges={})
    slice_checkpoint(family, tmp_path / "cut", member="small")
    file = json.loads((tmp_path / "cut" / "hf_quant_config.json").read_text())["quantization"]
    config = json.loads((tmp_path / "cut" / "config.json").read_text())["quantization_config"]
    assert (file["quant_algo"], file["group_size"], config["quant_method"]) == ("NVFP4", 16, "modelopt")
    assert file["exclude_modules"] == config["ignore"]
    layers = [f"backbone.layers.{i}.mixer." for i in range(6)]
    stay = {layers[2] + p for p in ("q_proj", "k_proj", "v_proj", "o_proj")} | {"lm_head"}
    stay |= {layers[i] + "conv1d" for i in (0, 4)}
    assert set(config["ignore"]) == stay
    held = open_source(tmp_path / "cut")
    own = ("0.in", "0.out", "1.up", "1.down", "3.up", "3.down", "4.in", "4.out", "5.up", "5.down")
    wanted = {layers[int(name[0])] + name[2:] + "_proj.weight" for name in own}
    assert held.storage.keys() == wanted
    provenance = held.origin.provenance["quantized"]
    assert (provenance["to"], provenance["layout"]) == ("nvfp4", "modelopt")


def test_what_has_no_numbers_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ElasticError, match="weights are in nvfp4 already"):
        quantized(quantized(dense, tmp_path / "low", "nvfp4"), tmp_path / "again", "fp8")
    slice_checkpoint(dense, tmp_path / "bare", subnet=PARENT.uniform([2, 3]))
    with pytest.raises(ElasticError, match="no weight is left to be quantised"):
        quantized(tmp_path / "bare", tmp_path / "out", "nvfp4")
    with pytest.raises(ElasticError, match=r"^ranges: missing; largest inputs: fp8 in the layout modelopt"):
        quantize_folder(dense, tmp_path / "out", scheme_of("fp8", MODELOPT))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [0x7F80, 0x7FC0], ids=["infinity", "NaN"])
@pytest.mark.parametrize("row", [0, -1])
def test_a_number_without_codes_is_found_wherever_it_is(
    number: int, row: int, wide: Checkpoint, tmp_path: Path
) -> None:
    """The weight is read in many pieces."""
    name = "backbone.layers.1.mixer.up_proj.weight"
    words = wide.tensors[name].words.copy()
    words[row, 5] = number
    broken = replace(wide, tensors=dict(wide.tensors) | {name: Tensor.of_words("BF16", words)})
    with pytest.raises(ElasticError) as refused:
        quantize_folder(broken, tmp_path / "out", scheme_of("fp8", COMPRESSED))
    assert refused.value.at == (name,) and not (tmp_path / "out").exists()


def test_a_member_that_nobody_could_cut_is_said_before(dense: Path, tmp_path: Path) -> None:
    """Its columns are no blocks at all; in FP8 it is cut."""
    odd = family_of(tmp_path / "odd", PARENT, {"odd": PARENT.uniform(ffn=136)})
    with pytest.raises(ElasticError) as refused:
        quantized(odd, tmp_path / "low", "nvfp4")
    assert str(refused.value) == f"{odd}: odd keeps 136 columns of mlp.down, no blocks of 16: use --to fp8"
    slice_checkpoint(quantized(odd, tmp_path / "fp8", "fp8"), tmp_path / "cut", member="odd")
    assert verify(tmp_path / "cut", parent=tmp_path / "fp8").ok


def test_a_plain_model_in_low_precision_becomes_a_family(dense: Path, tmp_path: Path) -> None:
    """As a published checkpoint would: it has no record of ours, and a block says which members there are."""
    low = quantized(dense, tmp_path / "low", "nvfp4")
    plain_of(low, tmp_path / "plain")
    axes = {"hidden": [64, 48], "ffn": {"choices": [256, 128], "stripes": 4}}
    block = {"budgets": [{"name": "full"}, {"name": "small", "ratio": 0.7}], "axes": axes}
    init_family(tmp_path / "plain", ElasticConfig.from_dict(block), tmp_path / "family")
    family = open_source(tmp_path / "family")
    assert family.precision == "nvfp4"
    slice_checkpoint(family, tmp_path / "cut", member="small")
    assert all(check.ok is not False for check in verify(tmp_path / "cut", parent=tmp_path / "family").checks)
