# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How importance is measured, and a ranking on disk: whole, checked, of one parent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking, RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.ranking.ranking import JSON, TENSORS
from tests.ranking.test_sorting import rotating, shuffled, tokens_of
from tests.shapes import PARENT
from tests.strategies import parents


@pytest.fixture
def saved(tmp_path):
    model = NemotronH.random(PARENT, seed=1)
    options = RankOptions(ffn="first", head_channels=2)
    ranking = rank(Layers(model.weights()), PARENT, [tokens_of(PARENT)], options, provenance={"data": "random"})
    ranking.save(tmp_path / "ranking")
    return ranking, tmp_path / "ranking"


def edit(folder, **changes):
    head = json.loads((folder / JSON).read_text())
    (folder / JSON).write_text(json.dumps(head | changes))


@pytest.mark.parametrize("hidden", ["magnitude", "basis"])
def test_what_was_saved_is_loaded(tmp_path, hidden):
    folder, model = tmp_path / "ranking", NemotronH.random(PARENT, seed=1)
    options = RankOptions(ffn="first", head_channels=2, hidden=hidden)
    ranking = rank(Layers(model.weights()), PARENT, [tokens_of(PARENT)], options, provenance={"data": "random"})
    ranking.save(folder)
    loaded = Ranking.load(folder, PARENT)
    assert loaded.digest == ranking.digest and loaded.parent == PARENT and loaded.options == ranking.options
    assert (loaded.depth, loaded.depth_scores) == (ranking.depth, ranking.depth_scores)
    assert loaded.provenance == ranking.provenance
    for name in ranking.scores:
        np.testing.assert_array_equal(loaded.scores[name], ranking.scores[name])
    assert (ranking.basis is None) == (hidden == "magnitude")
    np.testing.assert_array_equal(loaded.basis, ranking.basis)
    assert sorted(p.name for p in folder.iterdir()) == [JSON, TENSORS]
    with pytest.raises(ElasticError, match="already exists"):
        ranking.save(folder)
    ranking.save(folder, force=True)


@settings(max_examples=40)
@given(data=st.data(), parent=parents())
def test_the_digest_changes_with_every_order_and_with_nothing_else(data, parent):
    a = shuffled(parent, 0)
    same = replace(a, scores={}, options=RankOptions(ffn="first"), provenance={"x": 1})
    restored = replace(a, orders=dict(reversed([(k, v.astype(np.int32)) for k, v in a.orders.items()])))
    assert a.digest == same.digest == restored.digest
    name = data.draw(st.sampled_from([*a.orders, "depth"]))
    if name == "depth":
        other = replace(a, depth=a.depth[::-1])
    else:
        other = replace(a, orders=dict(a.orders) | {name: shuffled(parent, 1).orders[name]})
    moved = a.depth != other.depth or any(not np.array_equal(a.orders[n], other.orders[n]) for n in a.orders)
    assert (a.digest != other.digest) == moved


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: {"basis": r.basis[:, :-1]}, r"basis: 'float32 \(16, 15\)' is not allowed"),
        (lambda r: {"basis": r.basis.astype(np.float64)}, "basis: 'float64"),
        (lambda r: {"basis": r.basis * 1.01}, "basis is not orthogonal"),
        (lambda r: {"basis": r.basis * np.nan}, "basis is not orthogonal"),
        (lambda r: {"orders": {**r.orders, "hidden": r.orders["hidden"][::-1]}}, "order 'hidden' moves channels"),
        (lambda r: {"parent": replace(r.parent, tied=True)}, "head is tied"),
    ],
)
def test_a_basis_that_no_parent_can_be_rotated_by_is_refused(change, message):
    ranking = rotating(Ranking.trivial(PARENT), 0)
    with pytest.raises(ElasticError, match=message):
        replace(ranking, **change(ranking))
    assert replace(ranking, basis=-ranking.basis).digest != ranking.digest


def test_a_ranking_of_another_parent_is_refused_with_the_field_and_other_stripes_are_the_same(saved):
    _, folder = saved
    with pytest.raises(ElasticError, match="vocab is 32 there, 33 in this parent") as e:
        Ranking.load(folder, replace(PARENT, vocab=33))
    assert str(folder) in e.value.message
    assert Ranking.load(folder, replace(PARENT, ffn_stripes=2)).parent == PARENT


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 2}, "version: 2 is not allowed"),
        ({"digest": "0" * 64}, "damaged"),
        ({"depth": [{"layer": 0, "score": None}]}, "depth must order all 5 layers"),
        ({"depth": [0, 1, 2, 3, 4]}, r"depth\[0\]: 0 is not allowed"),
    ],
)
def test_a_changed_head_is_refused(saved, change, message):
    _, folder = saved
    edit(folder, **change)
    with pytest.raises(ElasticError, match=message):
        Ranking.load(folder)


def test_changed_tensors_are_refused(saved):
    from safetensors.numpy import load_file, save_file

    _, folder = saved
    good = load_file(folder / TENSORS)

    def attempt(match, **change):
        save_file(good | change, folder / TENSORS)
        with pytest.raises(ElasticError, match=match):
            Ranking.load(folder)

    hidden = good["order.hidden"]
    attempt("'hidden' is not a permutation of its 16 channels", **{"order.hidden": hidden * 0})
    heads = good["order.mamba_heads.0"].copy()
    attempt("moves a head out of its group", **{"order.mamba_heads.0": heads[[1, 0, 2, 3, 4, 5]]})
    attempt("unknown tensor", **{"bias.hidden": hidden})
    attempt("'ffn.0' is not of this parent", **{"order.ffn.0": good["order.ffn.1"]})
    (folder / TENSORS).write_bytes(b"not safetensors")
    with pytest.raises(ElasticError, match="not readable as safetensors"):
        Ranking.load(folder)
    (folder / TENSORS).unlink()
    with pytest.raises(ElasticError, match="no such file"):
        Ranking.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("ffn", "last", "one of activation, first"),
        ("depth_samples", None, "at least 1"),
        ("depth_exact", 0, "at least 1, or null for all"),
        ("head_channels", True, "at least 1, or null for all"),
    ],
)
def test_a_wrong_value_is_reported_with_its_field(field: str, value: Any, allowed: str) -> None:
    fault = "missing" if value is None else ".* is not allowed"
    with pytest.raises(ElasticError, match=rf"^rank\.{field}: {fault}; {allowed}$"):
        RankOptions(**{field: value})
