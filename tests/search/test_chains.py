# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The best nested chain: against every chain that there is."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.search.chains import best_chain, through

INF = np.inf


def every_chain(scores: np.ndarray, inside: np.ndarray) -> list[tuple[int, ...]]:
    """All nested chains, the best first."""
    own = (np.flatnonzero(np.isfinite(row)) for row in scores)
    chains = [c for c in itertools.product(*own) if all(inside[i, j] for i, j in itertools.pairwise(c))]
    return sorted(chains, key=lambda c: sum(scores[b, i] for b, i in enumerate(c)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores of up to four budgets, and what is nested in what: points of a grid, smaller in every direction."""
    budgets, count = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    points, scores = rng.integers(0, 3, (count, 2)), rng.normal(size=(budgets, count))
    scores[rng.random(scores.shape) < 0.3] = INF
    return scores, (points[:, None] >= points[None]).all(-1)


@settings(max_examples=150)
@given(problem=problems())
def test_the_best_chain_and_the_best_through_each_candidate(problem: tuple[np.ndarray, np.ndarray]) -> None:
    scores, inside = problem
    chains = every_chain(scores, inside)
    assert best_chain(scores, inside) == (list(chains[0]) if chains else None)
    sums = [sum(scores[b, i] for b, i in enumerate(c)) for c in chains]
    for (budget, at), found in np.ndenumerate(through(scores, inside)):
        own = [total for total, c in zip(sums, chains, strict=True) if c[budget] == at]
        assert np.isclose(found, min(own, default=INF))
