# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which candidates of all budgets stay: against every chain that there is."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.search.chains import best_chains, different_chains

INF = np.inf


def every_chain(scores: np.ndarray, inside: np.ndarray) -> list[tuple[int, ...]]:
    """All nested chains, the best first."""
    own = (np.flatnonzero(np.isfinite(row)) for row in scores)
    chains = [c for c in itertools.product(*own) if all(inside[i, j] for i, j in itertools.pairwise(c))]
    return sorted(chains, key=lambda c: sum(scores[b, i] for b, i in enumerate(c)))


def one_by_one(
    scores: np.ndarray, inside: np.ndarray, keep: int, cells: Sequence[Hashable], first: Sequence[Sequence[int]] = ()
) -> list[list[int]]:
    """The same by looking at every chain, from the best to the worst."""
    kept = [list(own) for own in first] or [[] for _ in scores]
    for chain in every_chain(scores, inside):
        new = [(own, i) for own, i in zip(kept, chain, strict=True) if i not in own]
        if all(len(own) < keep and cells[i] not in [cells[k] for k in own] for own, i in new):
            for own, i in new:
                own.append(i)
    return kept


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores of up to four budgets, and what is nested in what: points of a grid, smaller in every direction."""
    budgets, count = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    points, scores = rng.integers(0, 3, (count, 2)), rng.normal(size=(budgets, count))
    scores[rng.random(scores.shape) < 0.3] = INF
    return scores, (points[:, None] >= points[None]).all(-1)


@settings(max_examples=150)
@given(problem=problems(), keep=st.integers(1, 4), coarse=st.booleans(), data=st.data())
def test_chains_are_taken_from_the_best_to_the_worst(
    problem: tuple[np.ndarray, np.ndarray], keep: int, coarse: bool, data: st.DataObject
) -> None:
    scores, inside = problem
    count = len(inside)
    cells = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)) if coarse else None
    kept = best_chains(scores, inside, keep, cells)
    assert kept == one_by_one(scores, inside, keep, cells or range(count))
    chains = every_chain(scores, inside)
    if not chains:
        assert kept == [[] for _ in scores]
        return
    assert [own[0] for own in kept] == list(chains[0])
    left = [c for c in chains if all(i in own for i, own in zip(c, kept, strict=True))]
    for budget, own in enumerate(kept):
        assert 0 < len(own) <= keep and len(set(own)) == len(own)
        assert cells is None or len({cells[i] for i in own}) == len(own)
        assert all(any(c[budget] == i for c in left) for i in own), "each is part of a chain of what was kept"


@settings(max_examples=100)
@given(problem=problems(), keep=st.integers(1, 4), data=st.data())
def test_different_widths_come_before_other_cells(
    problem: tuple[np.ndarray, np.ndarray], keep: int, data: st.DataObject
) -> None:
    scores, inside = problem
    count = len(inside)
    widths, rest = (data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)) for _ in range(2))
    cells = list(zip(widths, rest, strict=True))
    kept = different_chains(scores, inside, keep, widths, cells)
    assert kept == one_by_one(scores, inside, keep, cells, one_by_one(scores, inside, keep, widths))
    assert [own[:1] for own in kept] == best_chains(scores, inside, 1)
