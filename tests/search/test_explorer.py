# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of the search on their own: the descent takes what costs least, the surrogate tells good from poor."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.search import Space
from nemo_elastic.search.explorer import Explorer, Goal
from nemo_elastic.search.projection import fit
from nemo_elastic.search.surrogate import Surrogate, layer_groups
from tests.search.common import BUDGETS, SMALL, small_space
from tests.search.test_finder import Toy


@pytest.mark.parametrize("dear", ["hidden", "ffn"])
def test_the_descent_spends_what_costs_least_per_parameter(dear):
    axes = {"hidden": AxisConfig(tuple(range(128, 40, -8))), "ffn": AxisConfig(tuple(range(512, 0, -32)))}
    space = Space(SMALL, axes)

    def loss(member):
        share = {"hidden": member.hidden / 128, "ffn": member.widths("ffn")[0] / 512}
        return sum((10.0 if a == dear else 0.1) * (1 - s) for a, s in share.items())

    explorer, least = Explorer(space, loss, 200, np.random.default_rng(0)), tuple(int(n) - 1 for n in space.sizes)
    goal = Goal(BUDGETS[1], space.price(BUDGETS[1]), (0,) * len(space.slots), least)
    explorer.descend(goal, 200)
    best = explorer.codes[explorer.meets(goal)[0]]
    if dear == "hidden":  # half of all weights are the MLPs'
        assert space.decode(best).hidden >= 112 and space.decode(best).widths("ffn")[0] <= 256
    else:
        assert space.decode(best).widths("ffn")[0] >= 416 and space.decode(best).hidden <= 104


def test_a_draw_orders_codes_that_were_not_measured():
    space, rng = small_space(), np.random.default_rng(0)
    loss, price, upper = Toy(space), space.price(BUDGETS[1]), (0,) * len(space.slots)
    many = np.unique([fit(space, price, rng.integers(0, space.sizes), upper) for _ in range(160)], axis=0)
    rng.shuffle(many)
    losses = np.array([loss(space.decode(c)) for c in many])
    surrogate = Surrogate(space, layer_groups(space))
    rank = np.argsort(np.argsort(losses[60:]))
    for seed in range(5):
        guess = surrogate.sample(many[:60], losses[:60], many[60:], np.random.default_rng(seed))
        assert np.corrcoef(np.argsort(np.argsort(guess)), rank)[0, 1] > 0.6
    one, two = (surrogate.sample(many[:9], losses[:9], many[60:], np.random.default_rng(s)) for s in (0, 1))
    assert not np.array_equal(one, two)
