# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`init --data`: a family of a parent whose layers are read one by one."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core import layout
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import build_data
from nemo_elastic.data.eval_data import training_rows
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn import forward
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing import streamed
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.streamed import Sequences, rank_streamed, untrained_loss
from tests.shapes import MOE
from tests.shapes import PARENT as SHAPE
from tests.slicing.helpers import contents, run
from tests.texts import library_text

PARENT = replace(SHAPE, pattern="M-M*-M-M", vocab=512)
TEXT = ("--seq-length", "64")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A plain model, and data."""
    place = tmp_path_factory.mktemp("parent")
    build_data(place / "data", [library_text(place / "text")], vocab=512, reasoning=0.0, held_out_problems=0)
    model = NemotronH.random(PARENT, seed=0)
    write_family(place / "parent", PARENT, model.state_dict(), Family.of(PARENT, {"full": PARENT.full}))
    (place / "parent" / "elastic.json").unlink()
    return place


def block(folder, **changed):
    path = folder / "elastic.yaml"
    content = {
        "budgets": [{"name": "big"}, {"name": "mid", "ratio": 0.8}, {"name": "low", "ratio": 0.6}],
        "axes": {"hidden": [16, 14, 12, 8], "depth": [8, 7, 6], "ffn": {"choices": [16, 12, 8], "stripes": 4}},
        "importance": {"samples": 20, "hidden": "basis"},
        "search": {"tokens": 600},
        "shapes": "even",
    }
    path.write_text(json.dumps({"elastic": content | changed}))
    return path


@pytest.fixture
def no_forward(monkeypatch):
    """Fail where a layer runs."""
    for kind in forward.MIXERS:
        monkeypatch.setitem(forward.MIXERS, kind, lambda *_: pytest.fail("a layer runs"))


def rows_of(parent, count=20, length=9, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [Rows(torch.randint(parent.vocab, (1, length + 1), generator=random)) for _ in range(count)]


def ranked(place, path):
    """The ranking that a file's block asks for."""
    source = open_source(place / "parent")
    config = ElasticConfig.load(path)
    rows, provenance = training_rows(place / "data", source, config.importance.samples, 64)
    return rank_streamed(source, Sequences(rows, provenance), RankOptions.of(config, source.parent))


def test_only_the_drops_that_a_depth_needs_are_measured(place, tmp_path):
    axes = {"hidden": [16, 12], "depth": [8, 6], "mamba_head_dim": [PARENT.mamba_head_dim, 1]}
    asked = {"budgets": [{"name": "big"}, {"name": "small", "ratio": 0.9}], "axes": axes}
    ranking = ranked(place, block(tmp_path, **asked))
    ranking.save(tmp_path / "ranking")
    assert ranking.options.depth_exact == 2 and None not in ranking.depth_scores and len(ranking.depth) == 8
    assert ranking.options.head_channels == 1, "heads are scored by the fewest channels that a member has"
    for depth, says in (([8, 6], ""), ([8, 6, 5], "elastic.axes.depth: 5 is not allowed")):
        path = block(tmp_path, **asked | {"axes": axes | {"depth": depth}}, ranking=str(tmp_path / "ranking"))
        code, _, said = run("init", place / "parent", "--config", path, "--out", tmp_path / f"{len(depth)}")
        assert (code, says in said) == (2 if says else 0, True), said


@pytest.mark.parametrize(("hidden", "shapes"), [("magnitude", "even"), ("basis", "even"), ("basis", "search")])
def test_a_family_of_data_is_that_of_its_ranking(place, tmp_path, hidden, shapes):
    given = (place / "parent", "--data", place / "data", *TEXT)
    changed = {"importance": {"samples": 20, "hidden": hidden}, "shapes": shapes}
    path = block(tmp_path, **changed)
    code, _, said = run("init", *given, "--config", path, "--out", tmp_path / "family")
    assert code == 0, said
    ranked(place, path).save(tmp_path / "ranking")
    path = block(tmp_path, **changed, ranking=str(tmp_path / "ranking"))
    code, _, said = run(
        "init", *given[: None if shapes == "search" else 1], "--config", path, "--out", tmp_path / "two"
    )
    assert code == 0, said
    assert contents(tmp_path / "family") == contents(tmp_path / "two")


def test_shapes_are_searched_inside_of_the_sorted_parent(place, tmp_path):
    given = (place / "parent", "--data", place / "data", *TEXT, "--json")
    families = {}
    for shapes in ("even", "search", "router"):
        out = tmp_path / shapes
        code, printed, said = run("init", *given, "--config", block(tmp_path, shapes=shapes), "--out", out)
        assert code == 0, said
        families[shapes] = Family.load(out)
        losses = json.loads(printed)["provenance"].get("untrained_loss")
        assert (losses is not None) == (shapes == "search")
    shapes = {name: [m.subnet for m in family] for name, family in families.items()}
    assert shapes["search"] != shapes["even"] == shapes["router"]
    # as a model in memory says, on the same text
    losses = families["search"].provenance["untrained_loss"]
    rows, _ = training_rows(place / "data", open_source(place / "parent"), 20, 64)
    model = load_family(tmp_path / "search")
    ids_bl = Rows.joined(rows[:16]).inputs().ids_bl  # the first batches that have 600 tokens
    whole = model.select("big")(ids_bl).log_softmax(-1)
    for name, loss in losses.items():
        kl = (whole.exp() * (whole - model.select(name)(ids_bl).log_softmax(-1))).sum(-1).mean()
        assert loss == pytest.approx(float(kl), rel=1e-3)
    assert set(losses) == {"mid", "low"}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"ranking": "ranking"}, "elastic.ranking"),
        ({"shapes": "elastic.json"}, "elastic.shapes"),
        ({"shapes": "gone.json"}, "gone.json"),
        ({"axes": {"hidden": [15, 8]}}, "elastic.axes.hidden"),
        ({"budgets": [{"name": "low", "ratio": 0.1}]}, "elastic.budgets[low].ratio"),
        ({"importance": {"samples": 10**6}}, "--data"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_layer_runs(place, tmp_path, no_forward, changed, field):
    path, before = block(tmp_path, **changed), sorted(tmp_path.iterdir())
    given = (place / "parent", "--data", place / "data", *TEXT, "--config", path)
    code, _, said = run("init", *given, "--out", tmp_path / "family")
    assert code == 2 and said.startswith(f"error: {field}: "), said
    assert sorted(tmp_path.iterdir()) == before


def plain(folder, parent, dtype=torch.float32):
    """A parent in a folder, opened."""
    state = NemotronH.random(parent, dtype=dtype).state_dict()
    write_family(folder / "parent", parent, state, Family.of(parent, {"full": parent.full}))
    (folder / "parent" / "elastic.json").unlink()
    return open_source(folder / "parent")


def test_a_tied_parent_is_not_rotated(place, tmp_path):
    source = plain(tmp_path, replace(open_source(place / "parent").parent, tied=True))
    given = (source.folder, "--data", place / "data", *TEXT, "--config", block(tmp_path), "--out", tmp_path / "out")
    code, printed, said = run("init", *given)
    assert code == 0 and "residual stream by magnitude (its head is tied" in printed, said
    norm = open_source(tmp_path / "out").tensors["backbone.norm_f.weight"].numpy()
    assert sorted(norm) == sorted(source.tensors["backbone.norm_f.weight"].numpy())


@pytest.mark.parametrize("where", ["rank_streamed", "untrained_loss"])
def test_nothing_stays_of_a_family_that_fails(place, tmp_path, monkeypatch, where):
    def fail(*_):
        assert where == "rank_streamed" or any(tmp_path.glob(".*/model.safetensors")), "the weights are written"
        raise ElasticError("stopped")

    monkeypatch.setattr(streamed, where, fail)
    path = block(tmp_path, shapes="search")
    before = sorted(tmp_path.iterdir())
    given = (place / "parent", "--data", place / "data", *TEXT, "--config", path)
    code, _, said = run("init", *given, "--out", tmp_path / "family")
    assert code == 2 and "stopped" in said and sorted(tmp_path.iterdir()) == before


@pytest.fixture
def read(monkeypatch):
    """Names of tensors that were read, and the most layers that had some in memory at once."""
    names, alive, most = [], [], [0]
    get = streamed._Read.__getitem__

    def watched(self, name):
        value = get(self, name)
        names.append(name)
        if ".layers." in name:
            alive[:] = [(own, ref) for own, ref in alive if ref() is not None] + [(name, weakref.ref(value))]
            most[0] = max(most[0], len({own.split(".")[2] for own, _ in alive}))
        return value

    monkeypatch.setattr(streamed._Read, "__getitem__", watched)
    return names, most


@pytest.mark.parametrize("parent", [PARENT, MOE], ids=["dense", "experts"])
def test_a_layer_is_read_once_for_all_sequences_and_alone_in_memory(tmp_path, monkeypatch, read, parent):
    names, most = read
    source, sequences = plain(tmp_path, parent, torch.bfloat16), Sequences(rows_of(parent))
    every = sorted(t.hf for t in layout.tensors(parent, parent.full))
    ranked = rank_streamed(source, sequences, RankOptions(depth="cosine"))
    assert sorted(names) == every and most == [1]
    names.clear()
    monkeypatch.setattr(streamed, "STREAMS", 1)
    again = rank_streamed(source, sequences, RankOptions(depth="cosine"))
    layers = [name for name in every if ".layers." in name]
    assert [names.count(name) for name in layers] == [3] * len(layers), "20 sequences are three batches"
    assert again.digest == ranked.digest == in_memory(source, sequences).digest


def in_memory(source, sequences):
    layers = Layers(load_family(source).model.weights())
    return rank(layers, source.parent, sequences.batches(), RankOptions(depth="cosine"))


def test_losses_are_those_of_tokens_that_count(tmp_path):
    source, ids_bl = plain(tmp_path, PARENT), rows_of(PARENT, 1)[0].ids_bl
    member, counts_bl = PARENT.uniform(hidden=12), torch.tensor([[0.0] * 4 + [1.0] * 5 + [0.0]])
    loss = untrained_loss(source, Sequences([Rows(ids_bl, counts_bl)]), 100)
    model = load_family(source)
    whole, cut = (model.select(m)(ids_bl[:, :-1]).log_softmax(-1)[0, 4:9] for m in (None, member))
    kl = float((whole.exp() * (whole - cut)).sum(-1).mean())
    assert loss(member) == pytest.approx(kl, rel=1e-4) and loss(PARENT.full) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ElasticError, match="tokens count"):
        untrained_loss(source, Sequences([Rows(ids_bl, torch.zeros_like(counts_bl))]), 100)
