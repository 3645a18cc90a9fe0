# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a budget says that members cost; that it says so of every code is in `test_space.py`."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.precision import low_layers
from nemo_elastic.errors import ElasticError
from nemo_elastic.io.values import human_bytes
from nemo_elastic.search.space import LimitPrice, Price
from tests.search.common import SMALL, small_space

SPACE = small_space()
HALF = Price(SPACE, Budget("half", ratio=0.5))
FIRST, LAST = np.zeros_like(SPACE.sizes), SPACE.sizes - 1


def test_the_weight_of_a_slot_is_what_its_width_rules_of_the_parent() -> None:
    at = SPACE.slot("hidden")
    assert at is not None
    code = FIRST.copy()
    code[at] = LAST[at]
    saved = 1 - parameters(SMALL, SPACE.decode(code)) / parameters(SMALL, SMALL.full)
    narrower = 1 - SPACE.choices["hidden"][-1] / SPACE.choices["hidden"][0]
    assert HALF.weights[at] == pytest.approx(saved / narrower)
    assert len(HALF.weights) == len(SPACE.slots) and (HALF.weights > 0).all()


def test_a_budget_below_the_smallest_member_is_reported_with_the_nearest_cost() -> None:
    price = Price(SPACE, Budget("tiny", params=1000))
    nearest = f"{price(SPACE.smallest):.0f}"
    with pytest.raises(ElasticError, match=rf"^elastic\.budgets\[tiny\]\.params: .*nearest cost .* is {nearest} \("):
        price.check()


def test_limits_that_the_smallest_member_misses_are_reported_in_one_line_with_what_it_takes() -> None:
    least, size = parameters(SMALL, SPACE.smallest), memory(SMALL, SPACE.smallest, MemorySpec())
    params, served = {"params": least - 1}, {"memory": {"size": int(size) - 1}}
    nearest = f"{least:,} parameters .* and {human_bytes(size)} "
    with pytest.raises(ElasticError, match=rf"^elastic\.budgets\[tiny\]: .*{re.escape(str(params)[1:-1])}.*{nearest}"):
        Price(SPACE, Budget("tiny", ratio=0.9, **params, **served)).check()
    with pytest.raises(ElasticError, match=r"^elastic\.budgets\[tiny\]\.params: \d+ is not allowed; its limit is"):
        Price(SPACE, Budget("tiny", ratio=0.9, **params, memory={"size": int(size) + 1})).check()
    Price(SPACE, Budget("tiny", params=least, memory={"size": int(size) + 1})).check()


def test_the_price_of_several_limits_is_the_largest_share_that_is_used() -> None:
    codes = np.random.default_rng(0).integers(0, SPACE.sizes, (32, len(SPACE.sizes)))
    members, own = [SPACE.decode(code) for code in codes], {"batch": 64, "length": 512}
    bytes_of_one = [memory(SMALL, m, MemorySpec(**own)) / parameters(SMALL, m) for m in members]
    size = int(0.7 * parameters(SMALL, SMALL.full) * np.median(bytes_of_one))
    budget = Budget("both", ratio=0.7, memory={"size": size, **own})
    price = Price(SPACE, budget)
    shares = [[limit.share(SMALL, member) for limit in budget.limits] for member in members]
    np.testing.assert_allclose(price.each(codes), shares, rtol=1e-12)
    np.testing.assert_allclose(price.codes(codes), np.max(shares, axis=1), rtol=1e-12)
    assert [price(member) for member in members] == pytest.approx(np.max(shares, axis=1).tolist())
    assert price.target == 1.0 and price.whole == pytest.approx(max(x.share(SMALL, SMALL.full) for x in budget.limits))
    assert set(np.argmax(shares, axis=1)) == {0, 1}  # each of them binds somewhere


def test_layers_that_low_precision_leaves_have_a_table_of_their_own() -> None:
    """The Mamba layer before attention stays in bf16: as wide as another, it takes more. Each has its own width."""
    price = LimitPrice(SPACE, Budget("served", memory={"size": 10**6, "weights": "nvfp4"}).limits[0])
    types, low = SMALL.types, low_layers(SMALL)
    assert sorted(price.layers) == ["attention", "mamba", "mamba1", "mlp"]
    for name, layers in price.layers.items():
        assert {types[i] for i in layers} == {price.kind(name)} and len({int(i) in low for i in layers}) == 1
    rng = np.random.default_rng(0)
    codes = rng.integers(0, SPACE.sizes, (200, len(SPACE.sizes)))
    wanted = [memory(SMALL, SPACE.decode(code), MemorySpec(weights="nvfp4")) for code in codes]
    assert price.codes(codes).tolist() == pytest.approx(wanted, rel=1e-12)
    # in bf16 all layers of a type are alike
    assert sorted(LimitPrice(SPACE, Budget("x", memory={"size": 10**6}).limits[0]).layers) == sorted(set(types))
