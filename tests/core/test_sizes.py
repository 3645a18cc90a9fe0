# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The path of sizes between members: nested, falling, through every member, uniform where members are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import DTYPE_BYTES, MemorySpec, flops_per_token, memory, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from tests.shapes import NANO_12B, PARENT
from tests.strategies import parents, subnets


@st.composite
def families(draw: st.DrawFn, per_layer: bool | None = None) -> Family:
    """One to four members, some of the same shape; choices as coarse as the members' or as fine as blocks."""
    parent = draw(parents(max_layers=7))
    chain = [parent.full]
    for _ in range(draw(st.integers(0, 3))):
        chain.append(draw(subnets(parent, upper=chain[-1], per_layer=per_layer)))
    members = {f"m{i}": s for i, s in enumerate(chain)}
    axes = None
    if draw(st.booleans()):
        prefixes = [parent.axis(n) for n in parent.axes if n != DEPTH]
        axes = {b.name: AxisConfig(tuple(range(b.size, b.least - 1, -b.blocks))) for b in prefixes}
        axes[DEPTH] = AxisConfig(tuple(range(parent.num_layers, 0, -1)))
    order = draw(st.none() | st.permutations(range(parent.num_layers)))
    return Family.of(parent, members, axes=axes, drop_order=order)


SPECS = st.builds(
    MemorySpec,
    batch=st.integers(1, 64),
    length=st.integers(1, 10**6),
    weights=st.sampled_from(list(DTYPE_BYTES)),
    cache=st.sampled_from(list(DTYPE_BYTES)),
    state=st.sampled_from(list(DTYPE_BYTES)),
)


@settings(max_examples=100)
@given(families(), SPECS)
def test_every_step_is_nested_and_cheaper(family, spec):
    shapes = list(path(family))
    assert len(shapes) == len(path(family))
    for large, small in pairwise(shapes):
        small.validate(family.parent)
        assert small <= large and small != large
        assert parameters(family.parent, small) < parameters(family.parent, large)
        assert memory(family.parent, small, spec) < memory(family.parent, large, spec)
        assert flops_per_token(family.parent, small, 64) <= flops_per_token(family.parent, large, 64)


@settings(max_examples=100)
@given(families())
def test_members_lie_on_it_in_order(family):
    shapes = path(family)
    places = {at: above for at in range(len(shapes)) for above, below in [shapes.between(at)] if above == below}
    assert {shapes[at] for at in places} == {m.subnet for m in family}
    assert all(family.member(name).subnet == shapes[at] for at, name in places.items())
    assert min(places) == 0 and max(places) == len(shapes) - 1
    assert [places[at] for at in sorted(places)] == [n for n in family.names if n in places.values()]
    for at in range(len(shapes)):
        above, below = shapes.between(at)
        assert family.member(below).subnet <= shapes[at] <= family.member(above).subnet
        assert shapes[at] not in (m.subnet for m in family) or at in places


@settings(max_examples=100)
@given(families(per_layer=False))
def test_between_uniform_members_all_are_uniform(family):
    assert all(m.subnet.is_uniform for m in family)
    assert all(subnet.is_uniform for subnet in path(family))


@settings(max_examples=100)
@given(families())
def test_layers_go_one_at_a_time_in_the_drop_order(family):
    order = family.drop_order or tuple(range(family.parent.num_layers - 1, -1, -1))
    shapes = path(family)
    gone: dict[tuple[str, str], list[int]] = {}
    for at in range(1, len(shapes)):
        lost = set(shapes[at - 1].kept) - set(shapes[at].kept)
        assert len(lost) <= 1
        below = shapes.between(at)[1]
        above = shapes.between(at - 1)[0]
        gone.setdefault((above, below), []).extend(lost)
    for layers in gone.values():
        assert layers == sorted(layers, key=order.index)


@settings(max_examples=100)
@given(families(), SPECS, st.data())
def test_the_largest_that_fits_is_found(family, spec, data):
    shapes = path(family)
    for price in (None, lambda subnet: memory(family.parent, subnet, spec)):
        costs = [price(s) if price else parameters(family.parent, s) for s in shapes]
        limit = data.draw(st.sampled_from(costs)) + data.draw(st.sampled_from([-0.25, 0, 0.25]))
        wanted = next((i for i, cost in enumerate(costs) if cost <= limit), None)
        assert shapes.fit(limit, price) == wanted


def test_a_path_by_hand():
    """Axes share the way: hidden has two steps of 4, the FFN one of 8, one layer goes; each at its own middle."""
    axes = ElasticConfig.from_dict(
        {
            "budgets": [{"name": "big"}, {"name": "small", "ratio": 0.5}],
            "axes": {"hidden": [16, 12, 8], "ffn": {"choices": [16, 8], "stripes": 4}, "depth": [5, 4]},
        }
    ).resolve_axes(PARENT)
    small = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8)
    shapes = path(Family.of(PARENT, {"big": PARENT.full, "small": small}, axes=axes))
    assert list(shapes) == [
        PARENT.full,
        PARENT.uniform(hidden=12),  # 1/4 of the way
        PARENT.uniform(hidden=12, ffn=8),  # 1/2: axes in their fixed order
        PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=8),
        small,  # 3/4
    ]
    assert shapes[-1] == small and shapes[1:3] == (shapes[1], shapes[2])
    assert [shapes.between(i) for i in (0, 2, 4)] == [("big", "big"), ("big", "small"), ("small", "small")]
    with pytest.raises(IndexError):
        shapes[5]


def test_layers_that_differ_move_one_by_one():
    uneven = Subnet(
        16, (*PARENT.full.layers[:1], PARENT.layer(1, ffn=8), *PARENT.full.layers[2:4], PARENT.layer(4, ffn=4))
    )
    shapes = path(Family.of(PARENT, {"big": PARENT.full, "uneven": uneven}))
    # choices 16, 8 and 4 give steps of 4: layer 1 at 1/4 and 3/4 of the way, layer 4 at 1/6, 3/6 and 5/6
    assert [s.widths("ffn") for s in shapes] == [(16, 16), (16, 12), (12, 12), (12, 8), (8, 8), (8, 4)]


def test_coarse_choices_do_not_make_coarse_steps():
    """Of the common divisor 2560 the largest divisor of at most 1/32 of the width, a multiple of 64."""
    axes = {"hidden": [5120, 2560], "ffn": [20480, 10240], "mamba_heads": [128, 64], "attention_heads": [40, 8]}
    config = ElasticConfig.from_dict({"budgets": [{"name": "big"}, {"name": "small", "ratio": 0.5}], "axes": axes})
    small = NANO_12B.uniform(hidden=2560, ffn=10240, mamba_heads=64, attention_heads=8)
    shapes = path(Family.of(NANO_12B, {"big": NANO_12B.full, "small": small}, axes=config.resolve_axes(NANO_12B)))
    steps = {
        axis: {a - b for a, b in pairwise(sorted({s.widths(axis)[0] for s in shapes}, reverse=True))}
        for axis in ("ffn", "mamba_heads", "attention_heads")
    }
    assert steps == {"ffn": {640}, "mamba_heads": {8}, "attention_heads": {8}}
    assert {s.hidden % 128 for s in shapes} == {0} and len({s.hidden for s in shapes}) == 21


def test_a_family_of_one():
    shapes = path(Family.of(PARENT, {"only": PARENT.full}))
    assert list(shapes) == [PARENT.full] and shapes.between(0) == ("only", "only")


@settings(max_examples=100)
@given(families(), st.data())
def test_the_rest_of_it_inside_a_shape_is_its_end(family, data):
    """The same shapes and names, counted from the first that lies inside; limits find what they find on the whole."""
    shapes = path(family)
    held = data.draw(st.sampled_from(shapes[:]) | subnets(family.parent))
    rest = path(family, held)
    assert list(rest) == [s for s in shapes if s <= held]
    first = len(shapes) - len(rest)
    assert [rest.between(at) for at in range(len(rest))] == [shapes.between(at) for at in range(first, len(shapes))]
    if rest:
        limit = data.draw(st.integers(1, parameters(family.parent, rest[0])))
        actual, whole = rest.fit(limit), shapes.fit(limit)
        assert actual == (None if whole is None else whole - first)
        assert rest[-1] == shapes[-1]
