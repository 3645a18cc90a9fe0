# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that predict more than one token, cut with the members that they lie behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import Prediction, is_mtp
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import in_memory, same_words
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.hf.reading import open_tensors
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.functional import rms_norm
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.prediction import Predictor
from nemo_elastic.nn.weights import cut as weights_of
from nemo_elastic.ranking import Ranking, sort
from nemo_elastic.slicing.cutting import without_mtp
from nemo_elastic.slicing.family_folder import with_prediction
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.untrained import init_family
from nemo_elastic.slicing.verification import verify
from tests.quantize.damage import floats, with_json, with_tensors
from tests.ranking.test_sorting import rotating, shuffled, unstriped
from tests.shapes import GROUPS, LATENT, MOE

from .helpers import edit_json, printed, random_values
from .test_experts import BLOCK, PREDICTION, mtp_of, plain

LAYERS = Prediction("*E")


def family_of(folder: Path, parent: Parent, **options: Any) -> Family:
    source = plain(folder.with_name(f"{folder.name}-parent"), unstriped(parent), prediction=True)
    return init_family(source, ElasticConfig.from_dict(BLOCK), folder, **options)


def right(folder: Path, parent: Path) -> bool:
    """Whether every check holds but that of random words, some of which are no numbers."""
    checks = verify(folder, parent=parent, forward=False).checks
    return all(check.ok is not False for check in checks if check.name != "finite")


def valued(folder: Path, parent: Parent) -> Path:
    """A plain folder of small numbers, to run."""
    values = {n: torch.from_numpy(v - 0.25) for n, v in random_values(parent).items()}
    random = np.random.default_rng(2)
    more = {
        t.hf: Tensor.of(random.uniform(-0.4, 0.4, t.shape).astype(np.float32))
        for t in LAYERS.tensors(parent, parent.full)
    }
    folder.mkdir()
    write_checkpoints({folder: in_memory(parent, parent.full, values | more, PREDICTION)})
    return folder


def drafts(folder: Path, tokens_bl: torch.Tensor, member: Subnet | None = None) -> torch.Tensor:
    """Logits of the token after the next one, as vLLM's `NemotronHMTP` computes them, with the reference's layers.

    With a member: of the whole folder, under its masks.
    """
    source = open_source(folder)
    parent, held, layers = source.parent, source.subnet, source.prediction
    assert layers is not None
    whole, both, first = layers.extend(parent), layers.extend_member(parent, held), len(held.layers)
    tensors = {n: raw.torch() for n, raw in source.tensors.items() if not is_mtp(n)}
    state = dict(tensors)
    for name, raw in mtp_of(folder).items():
        _, _, number, rest = name.split(".", 3)
        state[f"backbone.layers.{first + int(number)}.{rest}"] = raw.torch()
    enorm, hnorm, project = (state.pop(f"backbone.layers.{first}.{n}.weight") for n in ("enorm", "hnorm", "eh_proj"))
    state["backbone.norm_f.weight"] = state.pop(f"backbone.layers.{first + 1}.final_layernorm.weight")
    gates = None if member is None else Gates.of(parent, member)
    theirs = None if member is None else Gates.of(whole, layers.extend_member(parent, member))
    trunk = Layers(weights_of(parent, held, tensors), gates)
    steps = Layers(weights_of(whole, both, state), theirs)
    gate_d = torch.ones(held.hidden) if gates is None else gates.hidden

    factor = parent.norm_factor(held.hidden, int(gate_d.sum()))

    def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight * gate_d * factor, parent.norm_eps, gate_d.sum())

    x_bld = trunk.embed(tokens_bl)
    for index in trunk.indices:
        x_bld = trunk.layer(index, x_bld)
    hidden_bld = trunk.norm(x_bld)[:, :-1]
    read = torch.cat([normed(trunk.embed(tokens_bl[:, 1:]), enorm), normed(hidden_bld, hnorm)], -1)
    x_bld = read @ project.t() * gate_d
    for index in steps.indices[len(trunk.indices) :]:
        x_bld = steps.layer(index, x_bld)
    return trunk.head(steps.norm(x_bld))


TOKENS = torch.randint(0, MOE.vocab, (2, 9), generator=torch.Generator().manual_seed(0))


def test_a_cut_drafts_as_the_whole_does_under_masks(tmp_path: Path) -> None:
    parent = unstriped(LATENT)
    folder = valued(tmp_path / "plain", parent)
    last = parent.layer(4, experts=6, expert_ffn=9, shared_ffn=8)
    small = parent.uniform(
        [0, 1, 3, 4], hidden=12, attention_heads=2, experts=4, expert_ffn=8, shared_ffn=12, latent=5
    )
    member = Subnet(small.hidden, (*small.layers[:-1], last))
    out = slice_checkpoint(folder, tmp_path / "cut", subnet=member).out
    assert read_shapes(out).config["mtp_n_routed_experts"] == 6, "the largest width of layers that differ"
    z_blv = drafts(out, TOKENS)
    torch.testing.assert_close(z_blv, drafts(folder, TOKENS, member), rtol=1e-4, atol=1e-4)
    assert float((z_blv - drafts(folder, TOKENS)).abs().max()) > 0.1


def test_a_sorted_family_drafts_as_its_parent_does(tmp_path: Path) -> None:
    """The whole stream is another order of the same channels, in the model and behind it."""
    parent = unstriped(MOE)
    folder = valued(tmp_path / "plain", parent)
    shuffled(parent, 5).save(tmp_path / "ranking")
    family = init_family(folder, ElasticConfig.from_dict(BLOCK), tmp_path / "family", ranking=tmp_path / "ranking")
    assert "left_out" not in family.provenance
    before, after = (open_source(tmp_path / name).tensors for name in ("plain", "family"))
    name = "mtp.layers.0.eh_proj.weight"
    assert not np.array_equal(before[name].words, after[name].words)
    torch.testing.assert_close(drafts(tmp_path / "family", TOKENS), drafts(folder, TOKENS), rtol=1e-4, atol=1e-4)
    out = slice_checkpoint(tmp_path / "family", tmp_path / "low", member="low").out
    small = family.member("low").subnet
    torch.testing.assert_close(drafts(out, TOKENS), drafts(tmp_path / "family", TOKENS, small), rtol=1e-4, atol=1e-4)
    assert verify(out, parent=tmp_path / "family").ok and verify(tmp_path / "family", parent=folder).ok


def test_a_rotated_family_computes_what_its_parent_does(tmp_path: Path) -> None:
    folder, parent = valued(tmp_path / "plain", unstriped(MOE)), unstriped(MOE)
    ranking = rotating(Ranking.trivial(parent), 5)
    ranking.save(tmp_path / "ranking")
    family = init_family(folder, ElasticConfig.from_dict(BLOCK), tmp_path / "family", ranking=tmp_path / "ranking")
    assert "left_out" not in family.provenance
    assert verify(tmp_path / "family", parent=folder).ok and family.parent.norm == PARENT_WIDTH
    before, after = (open_source(tmp_path / name).tensors for name in ("plain", "family"))
    wanted = sort({name: raw.torch() for name, raw in before.items() if not is_mtp(name)}, ranking, family.parent)
    for name, value in wanted.items():
        torch.testing.assert_close(after[name].torch(), value)
    ways = {"mid": "family", "low": "family", "by-way": "mid"}  # a member's norms are over the parent's width
    for name, source in ways.items():
        member = family.member("low" if name == "by-way" else name).subnet
        slice_checkpoint(tmp_path / source, tmp_path / name, subnet=member)
        assert member.hidden < parent.hidden and verify(tmp_path / name, parent=tmp_path / "family").ok
    direct, by_way = (open_source(tmp_path / name).tensors for name in ("low", "by-way"))
    for name, value in direct.items():
        torch.testing.assert_close(by_way[name].torch(), value.torch(), rtol=2e-7, atol=0)


@pytest.mark.parametrize(("spread", "most"), [(0.0, 1e-4), (0.1, 0.1), (0.3, 0.3)])
def test_a_rotated_family_drafts_nearly_as_its_parent_does(tmp_path: Path, spread: float, most: float) -> None:
    """The same where each of the two final norms has weights of one size, and near where they have several."""
    folder, parent = valued(tmp_path / "plain", unstriped(MOE)), unstriped(MOE)
    random = np.random.default_rng(3)

    def norms(tensors: dict[str, Tensor]) -> None:
        for name, size in (("backbone.norm_f.weight", 1.5), ("mtp.layers.1.final_layernorm.weight", 0.7)):
            signs = random.choice([-1, 1], parent.hidden)
            weight = signs * size * np.exp(spread * random.standard_normal(parent.hidden))
            tensors[name] = Tensor.of(weight.astype(np.float32))

    with_tensors(folder, tmp_path / "spread", norms)
    rotating(Ranking.trivial(parent), 5).save(tmp_path / "ranking")
    block = ElasticConfig.from_dict(BLOCK)
    family = init_family(tmp_path / "spread", block, tmp_path / "family", ranking=tmp_path / "ranking")
    wanted, drafted = (drafts(tmp_path / name, TOKENS) for name in ("spread", "family"))
    assert float((drafted - wanted).norm() / wanted.norm()) < most
    out, small = slice_checkpoint(tmp_path / "family", tmp_path / "low", member="low").out, family.member("low").subnet
    masked = drafts(tmp_path / "family", TOKENS, small)
    torch.testing.assert_close(drafts(out, TOKENS), masked, rtol=1e-4, atol=1e-4)
    assert verify(out, parent=tmp_path / "family").ok
    opened = open_source(out)
    predictor = Predictor(opened.parent, opened.subnet, LAYERS, {n: opened.torch(n) for n in opened.mtp})
    trunk = Layers(weights_of(opened.parent, opened.subnet, {n: opened.torch(n) for n in opened.names}))
    logits = trunk.head(predictor.beside(trunk, TOKENS)[1])
    torch.testing.assert_close(logits, drafts(out, TOKENS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rotates", [True, False])
def test_a_trained_family_takes_the_layers_of_its_parent(tmp_path: Path, rotates: bool) -> None:
    """What a host trained has none: those of the parent are sorted as `init` sorts them."""
    parent = unstriped(MOE)
    folder = valued(tmp_path / "plain", parent)
    ranking = rotating(Ranking.trivial(parent), 5) if rotates else shuffled(parent, 5)
    ranking.save(tmp_path / "ranking")
    init_family(folder, ElasticConfig.from_dict(BLOCK), tmp_path / "family", ranking=tmp_path / "ranking")
    family, whole = open_source(tmp_path / "family"), open_source(folder)
    read = Ranking.load(tmp_path / "ranking", family.parent)
    trained = without_mtp(family)
    taken = with_prediction(replace(trained, config={}), whole, read)
    assert taken.tensors.keys() == family.tensors.keys() and taken.prediction == LAYERS
    assert all(same_words(tensor, family.tensors[name]) for name, tensor in taken.tensors.items())
    assert taken.config == {key: PREDICTION[key] for key in taken.config} and len(taken.config) == 2
    assert with_prediction(trained, without_mtp(whole), read) is trained
    assert with_prediction(family, whole, read) is family


def test_what_has_been_changed_is_no_cut(tmp_path: Path) -> None:
    folder = valued(tmp_path / "plain", unstriped(MOE))
    init_family(folder, ElasticConfig.from_dict(BLOCK), tmp_path / "family")
    out = slice_checkpoint(tmp_path / "family", tmp_path / "low", member="low").out
    raw = mtp_of(out)["mtp.layers.0.enorm.weight"]
    assert raw.extent is not None
    with raw.extent.path.open("r+b") as file:
        file.seek(raw.extent.start)
        file.write(b"\x01\x02\x03\x04")
    checks = {check.name: check for check in verify(out, parent=tmp_path / "family", forward=False).checks}
    assert "the first is mtp.layers.0.enorm.weight" in checks["cut of the parent"].figure
    assert checks["checksums"].ok is checks["cut of the parent"].ok is False


def test_left_out_on_request_and_for_want_of_a_width(tmp_path: Path) -> None:
    family_of(tmp_path / "family", MOE)
    out = tmp_path / "low"
    cut = slice_checkpoint(tmp_path / "family", out, member="low", prediction=False)
    count = len(LAYERS.tensors(MOE, MOE.full))
    assert cut.left_out is not None and f"multi-token prediction layers ({count} tensors), as asked" in cut.left_out
    assert "num_nextn_predict_layers" not in read_shapes(out).config
    assert not any(name.startswith("mtp") for name in open_tensors(out))
    assert right(out, tmp_path / "family")
    parent = read_shapes(tmp_path / "family").parent
    bare = slice_checkpoint(tmp_path / "family", tmp_path / "bare", subnet=parent.uniform([0, 1, 2, 4]))
    assert bare.left_out is not None and bare.left_out.endswith("no attention layer, which would give their widths")
    assert not mtp_of(bare.out)


def test_codes_behind_a_model_in_full_precision_are_no_values(tmp_path: Path) -> None:
    folder = plain(tmp_path / "plain", unstriped(MOE), prediction=True)
    name = "mtp.layers.1.mixer.shared_experts.up_proj.weight"

    def quantise(tensors: dict[str, Tensor]) -> None:
        tensors[name] = Tensor.of_words("F8_E4M3", np.full(tensors[name].shape, 0x38, np.uint8))
        tensors[f"{name}_scale"] = tensors[f"{name.removesuffix('weight')}input_scale"] = floats(0.5)

    with_tensors(folder, tmp_path / "codes", quantise)
    said = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["backbone*", "lm_head"]}
    with_json(tmp_path / "codes", tmp_path / "low", "config.json", lambda c: c.update(quantization_config=said))
    whole = unstriped(MOE).full
    with pytest.raises(ElasticError, match=f"^dtype: 'fp32' is not allowed; tensor '{name}' is stored in fp8"):
        slice_checkpoint(tmp_path / "low", tmp_path / "cut", subnet=whole, dtype="fp32")
    cut = slice_checkpoint(tmp_path / "low", tmp_path / "cut", subnet=whole, dtype="fp32", prediction=False)
    assert open_source(cut.out).dtype == "F32"


def test_inspect_counts_them_apart(tmp_path: Path) -> None:
    family = family_of(tmp_path / "family", MOE)
    members = json.loads(printed("inspect", tmp_path / "family", "--json"))["members"]
    counts = {m.name: LAYERS.parameters(family.parent, m.subnet) for m in family}
    assert {name: member["prediction_parameters"] for name, member in members.items()} == counts
    assert f"{counts['mid']:,}" in printed("inspect", tmp_path / "family")


def test_what_a_config_says_of_them_is_held_against_the_tensors(tmp_path: Path) -> None:
    parent = unstriped(MOE)
    folder = plain(tmp_path / "plain", parent, prediction=True)
    for key, value, says in (
        ("mtp_hybrid_override_pattern", "EE", r"tensor 'mtp\.layers\.0\.norm\.weight'|tensor 'mtp"),
        ("mtp_hybrid_override_pattern", "*Q", r"mtp_hybrid_override_pattern: '\*Q' is not allowed; one of "),
        ("mtp_hybrid_override_pattern", "*-", r"'\*-' is not allowed; layers as the model has: MEM\*E"),
        ("num_nextn_predict_layers", -1, r"num_nextn_predict_layers: -1 is not allowed; a positive integer"),
    ):
        keep = (folder / "config.json").read_text()
        edit_json(folder / "config.json", **{key: value})
        with pytest.raises(ElasticError, match=says):
            open_source(folder)
        (folder / "config.json").write_text(keep)
    # one step, which is run twice; and a list in place of the pattern, as transformers writes it
    listed = {"num_nextn_predict_layers": 2, "mtp_layers_block_type": ["full_attention", "moe"]}
    edit_json(folder / "config.json", mtp_hybrid_override_pattern=..., **listed)
    source = open_source(folder)
    assert source.prediction == LAYERS and len(source.mtp) == len(LAYERS.tensors(parent, parent.full))


def test_two_steps_and_key_value_heads() -> None:
    layers = Prediction("*", 2)
    member = GROUPS.uniform(kv_heads=2, attention_heads=4, hidden=8)
    shapes = {t.hf: t.shape for t in layers.tensors(GROUPS, member)}
    assert shapes["mtp.layers.1.eh_proj.weight"] == (8, 16) and shapes["mtp.layers.0.mixer.k_proj.weight"] == (8, 8)
    names = [t.megatron for t in layers.tensors(GROUPS, member)]
    assert "mtp.layers.1.mtp_model_layer.layers.0.self_attention.linear_proj.weight" in names
    assert "mtp.layers.1.final_layernorm.weight" in names and len(set(shapes)) == len(names)
