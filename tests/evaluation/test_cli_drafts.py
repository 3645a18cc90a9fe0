# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""MTP layers as drafts: what `nemo-elastic eval` counts, what `nemo-elastic specialize --mtp` trains and writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic import load_family
from nemo_elastic.cli import drafting
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.prediction import is_mtp
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.evaluation import Drafts, accepted_drafts, predictor_of
from nemo_elastic.formats.checkpoint import in_memory, same_words
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.rows import Rows
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.untrained import init_family
from nemo_elastic.slicing.verification import verify
from nemo_elastic.train.prediction import draft_loss, train_prediction
from tests.ranking.test_sorting import unstriped
from tests.shapes import MOE
from tests.slicing.helpers import run
from tests.slicing.test_experts import BLOCK, PREDICTION
from tests.slicing.test_prediction import LAYERS, drafts

PARENT = replace(unstriped(MOE), vocab=400)
BUDGETS = {"budgets": [{"name": "whole"}, {"name": "low", "ratio": 0.8}]}
BIAS = "mtp.layers.1.mixer.gate.e_score_correction_bias"


def untouched(names: Iterable[str]) -> list[str]:
    """Names of tensors but those of single experts, to which no token may have gone."""
    return [name for name in names if ".experts." not in name]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 30), ("BATCH", 4), ("LENGTH", 32), ("MEASURED", 16)):
        monkeypatch.setattr(drafting, name, value)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, data: DataFolder) -> Path:
    place = tmp_path_factory.mktemp("drafts")
    random = torch.Generator().manual_seed(2)
    mtp = {t.hf: Tensor.of(torch.randn(t.shape, generator=random) * 0.3) for t in LAYERS.tensors(PARENT, PARENT.full)}
    (place / "parent").mkdir()
    state = random_state(PARENT, PARENT.full, 1) | mtp
    write_checkpoints({place / "parent": in_memory(PARENT, PARENT.full, state, PREDICTION, data.tokenizer_dir)})
    init_family(place / "parent", ElasticConfig.from_dict(BLOCK | BUDGETS), place / "family")
    return place / "family"


@pytest.fixture
def member(family: Path, tmp_path: Path) -> Path:
    return slice_checkpoint(family, tmp_path / "low", member="low").out or Path()


def test_a_draft_is_accepted_where_the_member_would_say_it(family: Path, member: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 400, (3, 21))
    counts = np.ones(21, dtype=bool)
    counts[5:9] = False
    windows = [Rows.document(row, counts) for row in ids[:2]] + [Rows.document(ids[2, :9])]
    source = open_source(member)
    weights = load_family(member).select().weights
    predictor = predictor_of(source, source.subnet)
    assert predictor is not None
    found = accepted_drafts(weights, predictor, windows, batch=2)
    accepted = total = 0
    for row, length in ((0, 20), (1, 20), (2, 8)):
        tokens_bl = torch.from_numpy(ids[row : row + 1, :length])
        own_l = load_family(member).select()(tokens_bl)[0, 1:].argmax(-1)
        same_l = (own_l == drafts(member, tokens_bl)[0].argmax(-1)).numpy()
        own = same_l[counts[2 : length + 1]] if row < 2 else same_l
        accepted, total = accepted + int(own.sum()), total + len(own)
    assert found == Drafts(accepted, total) and total == 2 * 15 + 7
    cut = predictor_of(open_source(family), source.subnet)
    assert cut is not None and all(torch.equal(cut.state[name], t) for name, t in predictor.state.items())


def test_the_loss_is_the_divergence_from_the_member(member: Path) -> None:
    source = open_source(member)
    trunk = Layers(load_family(member).select().weights)
    predictor = predictor_of(source, source.subnet)
    assert predictor is not None
    rows = Rows.document(np.arange(40) % 7).inputs()
    with torch.no_grad():
        p_lv = load_family(member).select()(rows.ids_bl)[0, 1:].log_softmax(-1)
        q_lv = drafts(member, rows.ids_bl)[0].log_softmax(-1)
    assert float(draft_loss(trunk, predictor, rows)) == pytest.approx(
        float((p_lv.exp() * (p_lv - q_lv)).sum(-1).mean()), rel=1e-4
    )
    before = {name: weight.clone() for name, weight in predictor.state.items()}
    losses = list(train_prediction(trunk, predictor, [rows] * 20))
    assert losses[-1] < 0.9 * losses[0]
    assert untouched(name for name, weight in predictor.state.items() if torch.equal(before[name], weight)) == [BIAS]


def test_a_member_is_written_with_the_same_trunk(family: Path, member: Path, data: DataFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, err = run("specialize", member, "--mtp", "--data", data.path, "--out", out, "--json")
    assert code == 0 and not err
    figures = json.loads(said)
    assert figures["after"]["acceptance"] > figures["before"]["acceptance"]
    assert figures["kl"][1] < 0.9 * figures["kl"][0]
    old, new = (open_source(folder) for folder in (member, out))
    assert old.tensors.keys() == new.tensors.keys() and old.subnet == new.subnet
    same = {name for name, tensor in old.tensors.items() if same_words(tensor, new.tensors[name])}
    assert {name for name in old.tensors if not is_mtp(name)} <= same
    assert untouched(filter(is_mtp, same)) == [BIAS]
    trained = dict(new.origin.provenance["mtp_trained"])
    assert trained == {key: value for key, value in figures.items() if key != "out"}
    assert "which were trained behind this member" in (out / "README.md").read_text()
    check = {check.name: check for check in verify(out, parent=family).checks}["cut of the parent"]
    assert check.ok and "MTP layers were trained" in check.figure
    smaller = replace(old.subnet, hidden=8)
    again = slice_checkpoint(out, tmp_path / "again", subnet=smaller).out
    assert verify(again or Path(), parent=family).ok
    # what `eval` says of both, on the held-out text
    code, said, err = run("eval", member, out, "--data", data.path, "--tokens", 300, "--seq-length", 32, "--json")
    first, second = json.loads(said)
    assert (
        code == 0 and first["loss"] == second["loss"] and first["drafts"]["total"] == second["drafts"]["total"] > 250
    )
    assert second["drafts"]["acceptance"] > first["drafts"]["acceptance"]
    assert "drafts accepted" in run("eval", out, "--data", data.path, "--tokens", 100, "--seq-length", 32)[1]


def test_what_cannot_be_trained_is_one_line_and_writes_nothing(
    family: Path, member: Path, data: DataFolder, tmp_path: Path
) -> None:
    bare = slice_checkpoint(family, tmp_path / "bare", member="low", prediction=False).out
    (tmp_path / "short.txt").write_text("a b")
    words: list[tuple[object, tuple[object, ...], str]] = [
        (family, (), "--mtp: is a family; cut a member"),
        (bare, (), "--mtp: has no layers that predict further tokens"),
        (member, ("--add", "code"), "--add: is not allowed with --mtp"),
        (member, ("--params", "7e9"), "--params: is not allowed with --mtp"),
        (member, ("--device", "abacus"), "--device: 'abacus' is not allowed"),
        (member, ("--data", tmp_path / "short.txt"), "--data: "),
        (member, ("--out", member), "which is an input; name another place"),
    ]
    for source, more, says in words:
        code, said, err = run("specialize", source, "--mtp", "--data", data.path, "--out", tmp_path / "out", *more)
        assert code == 2 and not said and err.count("\n") == 1 and says in err, err
        assert not (tmp_path / "out").exists()
    code, _, err = run("specialize", member, "--mtp", "--data", data.path)
    assert code == 2 and "--out: missing; the folder for the member" in err
