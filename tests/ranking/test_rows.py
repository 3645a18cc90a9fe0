# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rows whose tokens count for more or less, and rows of several documents, are ranked on as what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import Ranking, RankOptions
from nemo_elastic.ranking.measure import rank
from tests.ranking.test_depth import Ranks
from tests.ranking.test_sorting import tokens_of
from tests.shapes import LATENT, PARENT

PARENTS = pytest.mark.parametrize("parent", [PARENT, LATENT], ids=["dense", "experts"])
OPTIONS = [RankOptions(), RankOptions(aggregation="mean", depth="cosine", experts="l2")]
#: of four rows that are padded to twelve tokens
LENGTHS = (12, 5, 0, 7)


def ranking_of(parent: Parent, batches: Sequence[Rows | torch.Tensor], options: RankOptions, **more: Any) -> Ranking:
    return rank(Layers(NemotronH.random(parent, seed=3).weights()), parent, batches, options, **more)


def same(actual: Ranking, wanted: Ranking) -> None:
    assert actual.depth == wanted.depth
    for name, scores in wanted.scores.items():
        np.testing.assert_allclose(actual.scores[name], scores, rtol=2e-4, atol=1e-7, err_msg=name)
    for mine, theirs in zip(actual.depth_scores, wanted.depth_scores, strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or mine == pytest.approx(theirs, rel=2e-4))


def padded(parent: Parent) -> tuple[Rows, list[torch.Tensor]]:
    """Rows behind whose ends nothing counts, and each of them without that."""
    tokens = tokens_of(parent, batch=4, length=12)
    weights = (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).float()
    return Rows(tokens, weights), [row[None, :n] for row, n in zip(tokens, LENGTHS, strict=True) if n]


@PARENTS
@pytest.mark.parametrize("options", OPTIONS, ids=["mse", "cosine"])
def test_padding_that_does_not_count_is_as_if_it_were_not_there(parent: Parent, options: RankOptions) -> None:
    rows, alone = padded(parent)
    actual, wanted = ranking_of(parent, [rows], options), ranking_of(parent, alone, options)
    same(actual, wanted)
    assert actual.provenance == {"samples": 4, "tokens": 48, "counted": sum(LENGTHS)}
    assert wanted.provenance == {"samples": 3, "tokens": sum(LENGTHS)}
    with pytest.raises(ElasticError, match="give at least one batch with tokens that count"):
        ranking_of(parent, [Rows(rows.ids_bl, torch.zeros(4, 12))], options)


@PARENTS
def test_a_weight_that_is_twice_as_large_counts_twice(parent: Parent) -> None:
    """Of the two halves of every row the second counts as if each of its tokens had been there two times."""
    model, tokens = NemotronH.random(parent, seed=3), tokens_of(parent, batch=3, length=10)
    weights = torch.ones(3, 10)
    weights[:, 5:] = 2
    options = RankOptions(aggregation="mean")
    scores = [
        rank(Layers(model.weights()), parent, [Rows(tokens, w)], options).scores
        for w in (weights, (weights == 1).float(), (weights == 2).float())
    ]
    both, first, second = (s["hidden"] for s in scores)
    np.testing.assert_allclose(both, (first + 2 * second) / 3, rtol=1e-4)
    assert not np.allclose(first, second, rtol=1e-2)


@PARENTS
@pytest.mark.parametrize("options", [RankOptions(aggregation="mean"), OPTIONS[1]], ids=["mse", "cosine"])
def test_packed_documents_are_ranked_on_as_documents_alone(parent: Parent, options: RankOptions) -> None:
    alone = tokens_of(parent, batch=4, length=8)
    packed = Rows(alone.reshape(2, 16), None, Documents(((8, 16), (8, 16))))
    wanted = ranking_of(parent, [alone], replace(options, depth_samples=4))
    same(ranking_of(parent, [packed], replace(options, depth_samples=2)), wanted)
    joined = ranking_of(parent, [packed.ids_bl], replace(options, depth_samples=2))
    assert not np.allclose(joined.scores["hidden"], wanted.scores["hidden"], rtol=1e-4)


def test_ranks_with_rows_of_other_lengths_rank_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """They measure the depth in as many pieces."""
    monkeypatch.setattr("nemo_elastic.ranking.measure.LEAST_TOKENS", 16)
    options, shares = RankOptions(depth_samples=8), [tokens_of(PARENT, batch=4, length=n) for n in (12, 4)]
    wanted = ranking_of(PARENT, shares, options)
    calls = [lambda reduce, s=s: ranking_of(PARENT, [s], options, reduce=reduce) for s in shares]
    for actual in Ranks(2).run(*calls):
        same(actual, wanted)
        assert actual.provenance == {"samples": 8, "tokens": 64}


def test_parts_of_rows_keep_what_is_theirs() -> None:
    documents = Documents(((4, 9), (9,), (3, 9)))
    rows = Rows(tokens_of(PARENT, batch=3), torch.rand(3, 9), documents)
    one, two = rows.split(2)
    assert one.documents == Documents(((4, 9), (9,))) and two.documents == Documents(((3, 9),))
    assert rows[1:2].documents is None and len(rows[3:]) == 0
    assert torch.equal(two.every_count(), rows.every_count()[2:]) and torch.equal(two.ids_bl, rows.ids_bl[2:])
    longer = rows.padded(12)
    assert longer.ids_bl.shape == (3, 12) and longer.documents == Documents(((4, 9, 12), (9, 12), (3, 9, 12)))
    assert longer.counted == pytest.approx(rows.counted) and rows.padded(9) is rows
    assert Rows(rows.ids_bl).padded(12).counted == 27
