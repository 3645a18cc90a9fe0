# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two halves of a task's text: nothing on both sides, equal in size, one book alone too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation.halves import PIECE, WIDER, halves_of


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents of which no two tokens are the same."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(a, b) for a, b in pairwise(ends)]


def tokens(sequences_sl: np.ndarray) -> set[int]:
    return set(sequences_sl.reshape(-1).tolist())


def test_a_document_is_in_one_half_only():
    documents = numbered([30, 70, 11, 5, 64, 33, 90, 20] * 6)
    halves = halves_of(documents, length=16, most=10_000, seed=3)
    search, held_out = tokens(halves.search_sl), tokens(halves.held_out_sl)
    assert not search & held_out
    for document in documents:
        assert not (search & set(document.tolist()) and held_out & set(document.tolist()))
    sizes = halves.search_tokens, halves.held_out_tokens
    assert sum(sizes) > 0.95 * sum(map(len, documents)) and max(sizes) - min(sizes) < 128
    assert halves.search_sl.shape[1] == halves.held_out_sl.shape[1] == 17


def test_every_token_but_the_first_is_predicted_once():
    halves = halves_of(numbered([1000]), length=10, most=10_000)
    for sequences_sl in (halves.search_sl, halves.held_out_sl):
        assert (sequences_sl[1:, 0] == sequences_sl[:-1, -1]).all()
        labels = sequences_sl[:, 1:].reshape(-1)
        assert len(set(labels.tolist())) == len(labels)


def test_a_long_document_is_cut_into_pieces_that_go_to_both():
    halves = halves_of(numbered([4000]), length=20, most=10_000)
    assert min(len(halves.search_sl), len(halves.held_out_sl)) > 80
    steps = np.diff(halves.search_sl.reshape(-1).astype(int))
    assert (steps == 1).mean() > 1 - 1.2 * (2 / (PIECE * 21) + 1 / 20)  # where pieces meet, and where sequences do


def test_the_half_to_report_on_may_be_longer():
    halves = halves_of(numbered([100] * 200), length=10, most=500)
    assert (halves.search_tokens, halves.held_out_tokens) == (500, 500 * WIDER)


def test_the_seed_decides():
    documents = numbered([50] * 40)
    one, same, other = (halves_of(documents, 10, 10_000, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.search_sl, same.search_sl) and np.array_equal(one.held_out_sl, same.held_out_sl)
    assert not np.array_equal(one.search_sl, other.search_sl)


@pytest.mark.parametrize(("documents", "found"), [([], 0), ([np.arange(40)], 0), ([np.arange(20)] * 8, 7)])
def test_too_little_is_refused(documents, found):
    with pytest.raises(ElasticError, match=rf"mine: \d+ tokens make {found} sequences of 10 in each half"):
        halves_of(documents, 10, 10_000, where="mine")
