# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The members of a space that count: those within a budget to which nothing can be added."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.search.space import Code, Space

#: members with one width per axis that are all looked at, at most; fullest members of a budget that are kept
COUNTED, KEPT = 2**17, 1024


def fullest(space: Space, budget: Budget, inside: Code | np.ndarray) -> np.ndarray | None:
    """Codes of the members with one width per axis that meet a budget inside another, to which nothing can be added.

    Returns:
        Integers [n, slots]; each member within the budget is nested in one of them. None where there are too many
        members to look at.
    """
    if math.prod(space.even_shape) > COUNTED:
        return None
    fits = space.price(budget).even_fits & space.nested(space.even, inside)
    fits = fits.reshape(space.even_shape)
    full = fits.copy()
    for axis in range(fits.ndim):
        np.moveaxis(full, axis, 0)[1:] &= ~np.moveaxis(fits, axis, 0)[:-1]
    return space.even[full.reshape(-1)]


def fullest_chains(space: Space, budgets: Sequence[Budget]) -> np.ndarray | None:
    """Codes of the fullest members of the first budget, of the second inside each of these, and so on.

    Where a larger member of a budget is always better, the best chain is among them.
    """
    outer, out = np.zeros((1, len(space.slots)), dtype=np.int64), list[np.ndarray]()
    for budget in budgets:
        inner = [codes for code in outer if (codes := fullest(space, budget, code)) is not None]
        if not inner:
            return None
        outer = np.unique(np.concatenate(inner), axis=0)
        outer = outer[np.linspace(0, len(outer) - 1, min(len(outer), KEPT)).round().astype(int)]
        out.append(outer)
    return np.unique(np.concatenate(out), axis=0)
