# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The best nested chain of candidates: one member of every budget, each inside the one before."""

from __future__ import annotations

import numpy as np


def best_chain(scores: np.ndarray, inside: np.ndarray) -> list[int] | None:
    """Positions of the candidates of the chain with the smallest score, by budget; None where no chain is nested.

    Args:
        scores: float64 [budgets, n], from the largest budget to the smallest, lower is better; infinite where a
            candidate does not fit the budget. A chain's score is the sum.
        inside: bool [n, n], entry [i, j]: candidate j is nested in candidate i.
    """
    best, before = _best_path_to(scores, inside)
    at = int(best[-1].argmin())
    if not np.isfinite(best[-1, at]):
        return None
    chain = [at]
    for b in range(len(scores) - 1, 0, -1):
        chain.append(int(before[b, chain[-1]]))
    return chain[::-1]


def through(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The smallest score of a chain through each candidate of each budget, float64 [budgets, n]; see `best_chain`."""
    above, below = _best_path_to(scores, inside)[0], _best_path_to(scores[::-1], inside.T)[0][::-1]
    return above + below - np.where(np.isfinite(scores), scores, 0.0)


def _best_path_to(scores: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest sum of scores from the first budget down to each candidate, and the candidate before it."""
    best, before = scores.copy(), np.zeros(scores.shape, dtype=np.int64)
    for b in range(1, len(scores)):
        through = np.where(inside, best[b - 1][:, None], np.inf)
        before[b] = through.argmin(axis=0)
        best[b] = through.min(axis=0) + scores[b]
    return best, before
