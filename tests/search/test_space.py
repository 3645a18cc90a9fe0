# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Codes and members are the same thing, and prices are exact: of one limit and of several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.precision import low_layers
from nemo_elastic.errors import ElasticError
from nemo_elastic.search import Space
from nemo_elastic.search.space import LimitPrice, Price, keep_attention
from tests.search.common import SMALL, SMALL_AXES, SMALL_DROPS, codes, small_space, spaces
from tests.shapes import PARENT

some = settings(max_examples=60)
MEMORY = Budget("served", memory={"size": 10**9, "batch": 2, "length": 64, "weights": "nvfp4", "cache": "fp8"})


@some
@given(data=st.data(), space=spaces())
def test_members_and_codes_are_the_same(data, space):
    member = space.decode(data.draw(codes(space))).validate(space.parent)
    assert member in space
    code = space.encode(member)
    assert space.decode(code) == member
    assert space.smallest <= member <= space.full == space.parent.full


@some
@given(data=st.data(), space=spaces())
def test_nesting_of_codes_is_nesting_of_members(data, space):
    many = [[space.decode(data.draw(codes(space))) for _ in range(3)] for _ in range(2)]
    inner, outer = (np.array([space.encode(m) for m in own]).reshape(3, -1) for own in many)
    assert space.nested(inner, outer).tolist() == [a <= b for a, b in zip(*many, strict=True)]
    assert space.nested(inner, outer[0]).tolist() == [a <= many[1][0] for a in many[0]]
    assert space.nested(inner[0], outer).tolist() == [many[0][0] <= b for b in many[1]]


@some
@given(data=st.data(), space=spaces(), budget=st.sampled_from([Budget("full"), Budget("half", ratio=0.5), MEMORY]))
def test_prices_of_codes_are_exactly_the_budgets_cost(data, space, budget):
    if budget is MEMORY:  # the target must lie below the parent
        budget = replace(budget, memory={**budget.memory, "size": 1})
    many = [data.draw(codes(space)) for _ in range(4)]
    costs = space.price(budget).codes(np.array(many).reshape(4, -1))
    assert costs.tolist() == [budget.cost(space.parent, space.decode(c)) for c in many]


def test_members_outside_the_space_are_reported_with_their_axis():
    space = small_space()
    full = SMALL.full

    def refused(member, match):
        assert member not in space
        with pytest.raises(ElasticError, match=match):
            space.encode(member)

    refused(replace(full, hidden=100), "member: hidden: 100 is not allowed; choices are 128, 112, 96, 80, 64")
    refused(SMALL.uniform(keep=range(11)), "this ranking keeps")
    uneven = [SMALL.layer(i, attention_heads=6) if i == 5 else x for i, x in enumerate(full.layers)]
    refused(replace(full, layers=tuple(uneven)), "attention_heads.*one width for all layers")


@pytest.mark.parametrize(
    "axes, drops, match",
    [
        ({"hidden": AxisConfig((8, 4))}, (), "a first choice of the parent's 16"),
        ({"depth": AxisConfig((5, 3))}, (0,), "at least the 2 layers"),
        ({"depth": AxisConfig((5, 3))}, (0, 9), "each of the parent's 5 layers at most once"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(axes, drops, match):
    with pytest.raises(ElasticError, match=match):
        Space(PARENT, axes, drops)


def test_another_drop_order_keeps_slots_and_choices():
    space = Space(SMALL, SMALL_AXES, SMALL_DROPS[:5])
    assert space.whole_drop_order == (5, 3, 10, 8, 7, 0, 1, 2, 4, 6, 9, 11)
    other = space.reordered(tuple(range(12)))
    assert other.slots == space.slots and other.parent == space.parent
    assert other.smallest.kept == (4, 5, 6, 7, 8, 9, 10, 11)


@pytest.mark.parametrize(
    ("order", "number", "wanted"),
    [
        ((5, 3, 10, 8, 7), 1, (5, 3, 8, 7, 10)),  # 10 is the more important attention layer of the two
        ((5, 3, 10, 8, 7), 2, (3, 8, 7, 5, 10)),
        ((5, 3, 10, 8, 7), 3, (3, 8, 7, 5, 10)),  # more than the parent has: all of them
        ((5, 3, 8, 7), 1, (5, 3, 8, 7)),  # 10 is never dropped
    ],
)
def test_the_most_important_attention_layers_are_dropped_last(order, number, wanted):
    assert [i for i, kind in enumerate(SMALL.types) if kind == "attention"] == [5, 10]
    assert keep_attention(SMALL, order, number) == wanted


def test_every_member_keeps_an_attention_layer_unless_the_axis_says_otherwise():
    depth = {"choices": [12, 8, 2]}
    block = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}], "axes": {"depth": depth}}
    order = (10, 5, *(i for i in range(12) if i not in (5, 10)))  # the least important two are the attention layers

    def smallest(**message: int) -> tuple[int, ...]:
        axes = ElasticConfig.from_dict(block | {"axes": {"depth": depth | message}}).resolve_axes(SMALL)
        return Space(SMALL, axes, order).smallest.kept

    assert smallest() == smallest(keep_attention=1) == (5, 11)
    assert smallest(keep_attention=2) == (5, 10)
    assert smallest(keep_attention=0) == (9, 11)


# ------------------------------------------------------------------ prices

SPACE = small_space()
HALF = Price(SPACE, Budget("half", ratio=0.5))


def test_the_weight_of_a_slot_is_what_its_width_rules_of_the_parent() -> None:
    at = SPACE.slot("hidden")
    assert at is not None
    code = np.zeros_like(SPACE.sizes)
    code[at] = SPACE.sizes[at] - 1
    saved = 1 - parameters(SMALL, SPACE.decode(code)) / parameters(SMALL, SMALL.full)
    narrower = 1 - SPACE.choices["hidden"][-1] / SPACE.choices["hidden"][0]
    assert HALF.weights[at] == pytest.approx(saved / narrower)
    assert len(HALF.weights) == len(SPACE.slots) and (HALF.weights > 0).all()


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
