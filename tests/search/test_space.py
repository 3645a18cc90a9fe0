# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Codes and members are the same thing, and prices are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.errors import ElasticError
from nemo_elastic.search import Space
from nemo_elastic.search.explorer import holds, nested
from nemo_elastic.search.space import keep_attention
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
    a, b = (space.decode(data.draw(codes(space))) for _ in range(2))
    one, two = space.encode(a), space.encode(b)
    assert bool(nested(space, np.array([one]).reshape(1, -1), two)[0]) == (a <= b)
    assert bool(holds(space, np.array([two]).reshape(1, -1), one)[0]) == (a <= b)


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


def test_layers_that_a_member_drops_get_the_middle_choice_in_its_code():
    space = small_space()
    code = np.zeros(len(space.slots), dtype=int)
    code[list(space.positions("ffn"))] = [4, 0, 1, 1, 1]
    code[space.slot("depth")] = 2  # layers 5 and 3 go; 3 is an MLP
    dropped = space.slot("ffn", 3)
    code[dropped] = 4
    again = space.encode(space.decode(code))
    assert again[dropped] == 1
    assert space.decode(again) == space.decode(code)


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


def test_a_width_of_layers_that_are_all_gone_does_not_hinder_nesting():
    """Without an MLP left, its one width for all layers says nothing."""
    axes = {"ffn": AxisConfig((16, 8)), "depth": AxisConfig((5, 3))}
    space = Space(PARENT, axes, (1, 4, 0, 2, 3))  # layers 1 and 4 are the MLPs
    small, thin = space.decode((0, 1)), space.decode((1, 0))
    assert small <= thin and space.encode(small) == (0, 1)
    assert nested(space, np.array([space.encode(small)]), space.encode(thin)).all()
    assert not space.active((1, 1))[0] and space.active((1, 0)).all()


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


def test_a_saved_drop_order_is_taken_as_it_is():
    """A checkpoint's members were found under its own order, be it of a release that kept no attention layer."""
    space = Space(SMALL, {"depth": AxisConfig((12, 10))}, (10, 5, 0))
    assert space.smallest.kept == (1, 2, 3, 4, 5, 6, 7, 8, 9, 11)
    assert space.reordered((10, 5, 0)).smallest.kept == (0, 1, 2, 3, 4, 6, 7, 8, 9, 11)


@pytest.mark.parametrize("number", [3, True])
def test_attention_layers_that_cannot_be_kept_are_refused(number):
    block = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}],
             "axes": {"depth": {"choices": [12, 8], "keep_attention": number}}}  # fmt: skip
    with pytest.raises(ElasticError, match=r"elastic\.axes\.depth\.keep_attention: .* is not allowed"):
        ElasticConfig.from_dict(block).resolve_axes(SMALL)
    with pytest.raises(ElasticError, match="only depth drops layers"):
        ElasticConfig.from_dict(block | {"axes": {"hidden": {"choices": [64], "keep_attention": 1}}})
