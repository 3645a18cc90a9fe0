# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The order of layers: iterative, not one-shot, and with bounded memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.family import Subnet
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.ranking import RankOptions, rank
from nemo_elastic.ranking.depth import CHUNK, by_score, iterative_mse, squared_error
from tests.ranking.test_sorting import tokens_of
from tests.shapes import PARENT


def toy(damage):
    """A 'model' whose one logit is 1 + the damage of its missing layers: a function of the set."""

    def forward(tokens, choice, probe=None):
        kept = set(choice.kept) if isinstance(choice, Subnet) else set(range(PARENT.num_layers))
        missing = frozenset(range(PARENT.num_layers)) - kept
        return torch.full((len(tokens), 1, 1), 1.0 + damage(missing))

    return forward


def test_iterative_order_sees_that_two_layers_replace_each_other():
    """Alone layers 0 and 1 are nearly useless; without both nothing works. One-shot scores would drop both first."""
    alone = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 5.0}

    def damage(missing):
        return sum(alone[j] for j in missing) + (100.0 if {0, 1} <= missing else 0.0)

    order, scores = iterative_mse(toy(damage), PARENT, [tokens_of(PARENT)])
    assert order == (0, 2, 3, 4, 1)
    assert scores[0] == pytest.approx(0.01) and scores[1] == pytest.approx(0.16) and scores[-1] is None


def test_scores_are_the_normalised_squared_error():
    model, batches = NemotronH.random(PARENT, seed=2), [tokens_of(PARENT, seed=s) for s in (0, 1)]
    order, scores = iterative_mse(model, PARENT, batches)
    assert sorted(order) == list(range(5))
    full = torch.cat([model(b).detach() for b in batches]).double()
    first = {}
    for j in range(5):
        without = torch.cat([model(b, PARENT.uniform([i for i in range(5) if i != j])).detach() for b in batches])
        without = without.double()
        first[j] = float(((full - without) ** 2).sum() / (full**2).sum())
    assert order[0] == min(first, key=first.get)
    assert scores[0] == pytest.approx(first[order[0]], rel=1e-4)


def test_exact_rounds_limit_the_work_and_keep_the_front_of_the_order():
    calls = []
    model = NemotronH.random(PARENT, seed=2)

    def forward(tokens, choice=None, probe=None):
        calls.append(choice)
        return model(tokens, choice, probe)

    whole, _ = iterative_mse(forward, PARENT, [tokens_of(PARENT)])
    assert len(calls) == sum(n + 1 for n in (5, 4, 3, 2))
    calls.clear()
    cut, scores = iterative_mse(forward, PARENT, [tokens_of(PARENT)], exact=2)
    assert len(calls) == sum(n + 1 for n in (5, 4))
    assert cut[:2] == whole[:2] and sorted(cut) == sorted(whole)
    assert None not in scores


def test_at_most_two_logits_of_one_batch_are_alive():
    model = NemotronH.random(PARENT, seed=2)
    most = [0]

    def forward(tokens, choice=None, probe=None):
        logits = model(tokens, choice, probe)
        gc.collect()
        alive = {
            t.data_ptr() for t in gc.get_objects() if type(t) is torch.Tensor and tuple(t.shape) == tuple(logits.shape)
        }
        most[0] = max(most[0], len(alive))
        return logits

    iterative_mse(forward, PARENT, [tokens_of(PARENT, batch=3, length=11, seed=s) for s in range(3)], exact=1)
    assert most[0] <= 2


def test_squared_error_adds_chunks_in_float64():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, CHUNK, 5, generator=generator) for _ in range(2))
    assert squared_error(a, b) == pytest.approx(float((a.double() - b.double()).square().sum()), rel=1e-6)
    assert squared_error(a) == pytest.approx(float(a.double().square().sum()), rel=1e-6)


def test_reduce_makes_the_order_that_of_all_ranks():
    model = NemotronH.random(PARENT, seed=2)
    batches = [tokens_of(PARENT, seed=s) for s in (0, 1)]
    together = iterative_mse(model, PARENT, batches, exact=1)
    sums = []
    for b in batches:  # what each rank would hand to its all-reduce
        iterative_mse(model, PARENT, [b], exact=1, reduce=lambda t: sums.append(t.clone()) or t)
    reduced = iterative_mse(model, PARENT, batches[:1], exact=1, reduce=lambda _: sums[0] + sums[1])
    assert reduced[0] == together[0]
    assert reduced[1] == pytest.approx(together[1])


def test_logits_that_are_not_finite_are_told():
    with pytest.raises(ElasticError, match="logits are not finite"):
        iterative_mse(toy(lambda missing: float("nan")), PARENT, [tokens_of(PARENT)])


def test_cosine_scores_every_layer_in_the_same_pass():
    model = NemotronH.random(PARENT, seed=2)
    calls = []

    def forward(tokens, choice=None, probe=None):
        calls.append(choice)
        return model(tokens, choice, probe)

    ranking = rank(forward, PARENT, [tokens_of(PARENT)], RankOptions(depth="cosine"))
    assert calls == [None]
    assert list(ranking.depth) == np.argsort(ranking.scores["depth"]).tolist()
    assert by_score(np.array([0.3, 0.1, 0.2])) == ((1, 2, 0), (0.1, 0.2, 0.3))


def test_rank_consumes_an_iterator_once_and_tells_its_progress():
    model, told = NemotronH.random(PARENT, seed=2), []
    batches = (tokens_of(PARENT, batch=2, seed=s) for s in range(3))
    options = RankOptions(depth_samples=3)
    ranking = rank(model, PARENT, batches, options, lambda *a: told.append(a), provenance={"data": "random"})
    assert ranking.provenance == {"samples": 6, "tokens": 54, "data": "random"}
    assert told[:3] == [("widths", 1, 0), ("widths", 2, 0), ("widths", 3, 0)] and told[-1] == ("depth", 4, 4)
    kept = [tokens_of(PARENT, batch=2, seed=0), tokens_of(PARENT, batch=2, seed=1)[:1]]
    assert ranking.depth == iterative_mse(model, PARENT, kept)[0]
    with pytest.raises(ElasticError, match="no data"):
        rank(model, PARENT, [])
