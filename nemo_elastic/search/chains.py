# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which candidates of all budgets may stay, so that each is part of a nested chain: one member of every budget."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def different_chains(
    scores: np.ndarray, inside: np.ndarray, keep: int, widths: Sequence[Hashable], cells: Sequence[Hashable]
) -> list[list[int]]:
    """`best_chains` of different residual widths first, then of the other cells.

    Candidates train on the same weights. A width that few of the micro-batches train learns late, whatever it is worth
    alone; and it is the width that losses before training, and after little of it, misjudge (docs: study of shapes).

    Args:
        scores, inside, keep, cells: see `best_chains`.
        widths: of each candidate.
    """
    return best_chains(scores, inside, keep, cells, best_chains(scores, inside, keep, widths))


def best_chains(
    scores: np.ndarray,
    inside: np.ndarray,
    keep: int,
    cells: Sequence[Hashable] | None = None,
    first: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """For each budget the candidates of the best chains, at most `keep`, those of the best chain first.

    Chains are taken from the best to the worst. One that would exceed `keep`, or that has a second candidate of a
    cell, is left out.

    Args:
        scores: float64 [budgets, n], from the largest budget to the smallest, lower is better; infinite where a
            candidate is none of the budget's. A chain's score is the sum.
        inside: bool [n, n], entry [i, j]: candidate j is nested in candidate i.
        keep: candidates of a budget, at least 1.
        cells: of each candidate; of a budget's candidates of one cell one is kept. None: each has its own.
        first: candidates by budget, all part of chains of them, that are kept already.

    Returns:
        Positions of candidates, by budget; empty lists where no chain is nested.
    """
    budgets, count = scores.shape
    cells = range(count) if cells is None else cells
    kept = [list(own) for own in first or [[]] * budgets]
    while True:
        open_ = np.array([
            [i in own or (len(own) < keep and cells[i] not in {cells[k] for k in own}) for i in range(count)]
            for own in kept
        ])  # fmt: skip
        own = np.where(open_, scores, np.inf)
        chains, uppers, lowers = _chains(own, inside)
        for budget, known in enumerate(kept):
            chains[budget, known] = np.inf
        budget, at = np.unravel_index(chains.argmin(), chains.shape)
        if not np.isfinite(chains[budget, at]):
            return kept
        chain = {int(budget): int(at)}
        for b in range(budget, 0, -1):
            chain[b - 1] = int(uppers[b, chain[b]])
        for b in range(budget, budgets - 1):
            chain[b + 1] = int(lowers[b, chain[b]])
        for b, i in chain.items():
            if i not in kept[b]:
                kept[b].append(i)


def through(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The smallest score of a chain through each candidate of each budget, float64 [budgets, n]; see `best_chains`."""
    return _chains(scores, inside)[0]


def _chains(scores: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`through`, and the candidates before and after each in that chain."""
    above, uppers = _best_path_to(scores, inside)
    below, lowers = (each[::-1] for each in _best_path_to(scores[::-1], inside.T))
    return above + below - np.where(np.isfinite(scores), scores, 0.0), uppers, lowers


def _best_path_to(scores: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest sum of scores from the first budget down to each candidate, and the candidate before it."""
    best, before = scores.copy(), np.zeros(scores.shape, dtype=np.int64)
    for b in range(1, len(scores)):
        through = np.where(inside, best[b - 1][:, None], np.inf)
        before[b] = through.argmin(axis=0)
        best[b] = through.min(axis=0) + scores[b]
    return best, before
