# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Variations of the best chain, for spaces too large to enumerate: widths differ per layer."""

from __future__ import annotations

import numpy as np

from nemo_elastic.search.measured import Measured
from nemo_elastic.search.projection import fit
from nemo_elastic.search.space import Code, Space

#: variations in a row that were known already, at which a member may leave its neighbors, and at which a search ends
FREE, KNOWN = 20, 200


def vary(measured: Measured, rng: np.random.Generator) -> None:
    """Measure variations of the best chain's members, between their neighbors in it, while candidates are left.

    If all of these are measured, variations of any measured member: they may form a better chain.
    """
    space, known = measured.space, 0
    whole, least = (0,) * len(space.slots), tuple(int(n) - 1 for n in space.sizes)
    while measured.left and known < KNOWN and (chain := measured.best_chain()) is not None:
        at = int(rng.integers(len(chain)))
        outer, code, inner = [whole, *chain, least][at : at + 3]
        if known > FREE:
            outer, inner = whole, least
        budget = measured.budgets[at]
        fitted = fit(space, space.price(budget), _varied(space, code, rng), outer, inner)
        known = 0 if measured.measure(fitted, budget, "varied") else known + 1


def _varied(space: Space, code: Code, rng: np.random.Generator) -> Code:
    """A code with one or two axes a step wider or narrower, in layers that follow each other in the drop order.

    Layers that are dropped first also get narrower first.
    """
    place = {layer: i for i, layer in enumerate(space.whole_drop_order)}
    ranked = sorted(range(len(space.slots)), key=lambda i: place.get(space.slots[i].layer or 0, 0))
    axes = [[i for i in ranked if space.slots[i].axis == axis] for axis in dict.fromkeys(s.axis for s in space.slots)]
    varied = np.array(code)
    for _ in range(int(rng.integers(1, 3))):
        slots = axes[int(rng.integers(len(axes)))]
        first = int(rng.integers(len(slots)))
        varied[slots[first : int(rng.integers(first, len(slots))) + 1]] += int(rng.choice([-1, 1]))
    return tuple(int(i) for i in np.clip(varied, 0, space.sizes - 1))
