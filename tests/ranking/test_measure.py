# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`rank`: one pass for all widths, batches one by one, a first few sequences over again for the depth."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import RankOptions
from nemo_elastic.ranking.depth import iterative_mse
from nemo_elastic.ranking.measure import rank
from nemo_elastic.ranking.scores import Statistics
from tests.ranking.test_depth import Ranks, evaluations, measured  # noqa: F401 (a fixture)
from tests.ranking.test_sorting import tokens_of
from tests.shapes import PARENT


@pytest.fixture
def model():
    return NemotronH.random(PARENT, seed=2)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("nemo_elastic.ranking.measure.LEAST_TOKENS", 1)


def test_an_iterator_is_consumed_once_and_progress_is_reported(model, small_pieces):
    reports = []
    batches = (tokens_of(PARENT, batch=2, seed=s) for s in range(3))
    options = RankOptions(depth_samples=3)
    ranking = rank(
        Layers(model.weights()), PARENT, batches, options, lambda *a: reports.append(a), provenance={"data": "random"}
    )
    assert ranking.provenance == {"samples": 6, "tokens": 54, "data": "random"}
    assert reports == [*(("widths", i, 0) for i in range(1, 7)), *(("depth", i, 4) for i in (1, 2, 3, 4))]
    used = [*tokens_of(PARENT, batch=2, seed=0).split(1), tokens_of(PARENT, batch=2, seed=1)[:1]]
    assert (ranking.depth, ranking.depth_scores) == iterative_mse(measured(model, used))
    with pytest.raises(ElasticError, match="no data"):
        rank(Layers(model.weights()), PARENT, [])


def test_widths_are_scored_by_one_forward_that_no_head_follows(model, evaluations, monkeypatch):  # noqa: F811
    layers, recorded = Layers(model.weights()), []
    layer = layers.layer
    monkeypatch.setattr(layers, "head", lambda *_: pytest.fail("logits are made"))
    monkeypatch.setattr(layers, "layer", lambda *args: recorded.append(torch.is_grad_enabled()) or layer(*args))
    batches = [tokens_of(PARENT, batch=3, seed=s) for s in range(4)]
    ranking = rank(layers, PARENT, batches, RankOptions(depth="cosine"))
    assert evaluations[0] == 12 * PARENT.num_layers and not any(recorded)
    statistics = Statistics(PARENT, ranking.options)
    for batch in batches:
        model(batch, None, statistics)
    for name, value in statistics.scores().items():
        np.testing.assert_array_equal(ranking.scores[name], value)


def test_no_batch_is_alive_when_the_next_is_asked_for(model):
    alive = []

    def batches():
        for seed in range(4):
            gc.collect()
            assert not any(ref() is not None for ref in alive[:-1])  # the last is still the loop's
            batch = tokens_of(PARENT, batch=5, seed=seed)
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    ranking = rank(Layers(model.weights()), PARENT, batches(), RankOptions(depth_samples=2, depth_exact=1))
    assert ranking.provenance["samples"] == 20


@pytest.mark.parametrize("hidden", ["magnitude", "basis"])
def test_batches_that_go_through_the_layers_together_rank_as_one_by_one(model, small_pieces, hidden):
    weights = torch.rand(5, 9, generator=torch.Generator().manual_seed(1))
    batches = [Rows(tokens_of(PARENT, batch=5, seed=s), weights) for s in range(3)]
    options = RankOptions(hidden=hidden, depth_samples=4)
    one, all_of_them = (
        rank(Layers(model.weights()), PARENT, batches, options, together=tokens) for tokens in (1, 10**6)
    )
    assert (one.depth, one.depth_scores) == (all_of_them.depth, all_of_them.depth_scores)
    for name in one.scores:  # the moments of layers are added up in another order
        np.testing.assert_allclose(all_of_them.scores[name], one.scores[name], rtol=1e-12, atol=1e-12)
    if hidden == "basis":
        np.testing.assert_allclose(all_of_them.basis, one.basis, atol=1e-6)


def test_ranks_that_take_samples_in_turn_rank_as_one_does(model, small_pieces):
    """The depth's samples are shared too: another number of ranks must not measure on other ones."""
    tokens, options = tokens_of(PARENT, batch=8), RankOptions(depth_samples=4)
    layers = Layers(model.weights())
    one = rank(layers, PARENT, tokens.split(1), options)
    calls = [lambda reduce, i=i: rank(layers, PARENT, tokens[i::2].split(1), options, reduce=reduce) for i in (0, 1)]
    for actual in Ranks(2).run(*calls):
        assert actual.digest == one.digest
        assert (actual.options, actual.provenance) == (one.options, one.provenance)
        assert actual.depth_scores[:-1] == pytest.approx(one.depth_scores[:-1], rel=1e-9)
        for name, value in one.scores.items():
            np.testing.assert_allclose(actual.scores[name], value, rtol=1e-9)
