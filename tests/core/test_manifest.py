# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Family and elastic.json: what is written is read back, and every number and field is checked."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import FILE, Family, Member
from nemo_elastic.core.member import why_not_nested
from nemo_elastic.core.sizes import path
from nemo_elastic.errors import ElasticError
from tests.shapes import PARENT
from tests.strategies import chains, parents

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)
TINY = PARENT.uniform([0, 3], hidden=4, mamba_heads=2)
BLOCK = ElasticConfig.from_dict(
    {
        "budgets": [{"name": "big"}, {"name": "mid", "params": 4000}, {"name": "low", "memory": {"size": "1MiB"}}],
        "axes": {"hidden": [16, 8, 4], "ffn": {"choices": [16, 8], "per_layer": True, "stripes": 4}},
    }
)


def family(**other) -> Family:
    members = {"big": PARENT.full, "mid": SMALL, "low": TINY}
    report = {"budgets": BLOCK.budgets, "ranking_digest": "ab" * 32, "provenance": {"tokens": 5, "of": ["a", None]}}
    report["drop_order"] = [2, 4, 1, 0, 3]
    return Family.of(PARENT, members, axes=BLOCK.resolve_axes(PARENT), **(report | other))


@settings(max_examples=50)
@given(st.data())
def test_json_round_trip(data):
    parent = data.draw(parents())
    chain = data.draw(chains(parent, 3))
    made = Family.of(parent, {f"m{i}": s for i, s in enumerate(chain)}, ranking_digest="d" * 64, provenance={"a": [1]})
    text = json.dumps(made.to_json(), allow_nan=False)
    assert Family.from_json(json.loads(text)) == made
    written = json.loads(text)
    for entry in written["members"].values():
        entry.update(parameters=-1, active_parameters=-1, memory=None)
    assert [m.parameters for m in Family.from_json(written)] == [parameters(parent, s) for s in chain]


def test_folder_round_trip(tmp_path):
    family().save(tmp_path)
    assert Family.load(tmp_path) == family()
    data = json.loads((tmp_path / FILE).read_text())
    assert data["version"] == 1 and list(data["members"]) == ["big", "mid", "low"]
    assert data["members"]["mid"]["budget"] == {"params": 4000} and data["members"]["big"]["budget"] is None
    assert data["members"]["mid"]["subnet"]["layers"][0] == {"index": 0, "type": "mamba", "heads": 4, "head_dim": 4}
    assert data["axes"]["ffn"] == {"choices": [16, 8], "per_layer": True, "blocks": 4}
    assert data["axes"]["mamba_heads"] == {"choices": [6], "per_layer": False, "blocks": 2}
    assert data["axes"]["depth"] == {"choices": [5], "per_layer": False, "blocks": 1}


def test_the_parent_is_always_a_member():
    made = Family.of(PARENT, {"mid": SMALL})
    assert made.names == ("full", "mid") and made.members[0].subnet == PARENT.full
    with pytest.raises(ElasticError, match=r"members\.full"):
        Family.of(PARENT, {"full": SMALL})


def test_axes_are_taken_from_the_members():
    uneven = replace(SMALL, layers=(*SMALL.layers[:-1], PARENT.layer(4, ffn=4)))
    axes = Family.of(PARENT, {"mid": uneven}).axes
    assert axes["hidden"] == AxisConfig((16, 8)) and axes["ffn"] == AxisConfig((16, 8, 4), per_layer=True)
    assert axes["depth"] == AxisConfig((5, 4)) and axes["attention_heads"] == AxisConfig((4,))


def broken(path, value):
    """elastic.json with the value at a dotted path replaced, or removed for `...`."""
    data = copy.deepcopy(family().to_json())
    *way, last = path
    at = data
    for key in way:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], True, "version: True"),
        (["parent", "hidden"], 20, "first must be the parent's 20"),
        (["axes", "depth"], ..., "axes.depth: missing"),
        (["axes", "ffn", "choices"], [16, 6], "allowed are 4 to 16 in multiples of 4"),
        (["members", "mid", "budget"], {"name": "low", "params": 5}, "members.mid.budget"),
        (
            ["members", "mid", "budget"],
            {"latency": {"table": __file__, "ms": 1}},
            f"members.mid.budget.latency.table: {__file__!r} is not allowed",
        ),
        (["members", "big"], ..., "the first, and largest, must be the parent itself"),
        (["ranking"], "ab" * 32 + "\n", "a digest of 64 hexadecimal digits or null"),
        (["drop_order"], [4, 3, 2, True, 0], "each of the parent's layers"),
    ],
)
def test_a_wrong_file_is_one_line_with_the_field(path, value, message, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(broken(path, value)))
    with pytest.raises(ElasticError) as caught:
        Family.load(tmp_path)
    assert message in caught.value.message and "\n" not in caught.value.message
    assert caught.value.message.startswith(str(tmp_path / FILE))


def test_the_drop_order_is_kept_and_may_be_missing():
    assert Family.from_json(family().to_json()).drop_order == (2, 4, 1, 0, 3)
    assert Family.from_json(broken(["drop_order"], ...)) == family(drop_order=None)
    with pytest.raises(ElasticError, match="drop_order"):
        family(drop_order=range(4))


def test_a_count_that_was_not_nested_any_more():
    data = family().to_json()
    wide = replace(TINY, layers=(PARENT.layer(0, mamba_heads=6), *TINY.layers[1:]))
    low = Family.of(PARENT, {"low": wide}).to_json()["members"]["low"]
    data["members"]["low"] = low
    with pytest.raises(ElasticError, match=r"members\.low: not nested in 'mid': layer 0 has mamba_heads 6, above 4"):
        Family.from_json(data)


def test_a_folder_without_the_file(tmp_path):
    with pytest.raises(ElasticError, match="not a family folder"):
        Family.load(tmp_path)


def test_members_made_by_hand_are_checked_too():
    count = parameters(PARENT, SMALL)
    axes = family().axes
    whole = Member("big", PARENT.full, None, parameters(PARENT, PARENT.full))
    Family(PARENT, axes, (whole, Member("mid", SMALL, None, count)))
    for members in (
        (Member("mid", SMALL, None, count),),
        (whole, Member("big", SMALL, None, count)),
        (whole, Member("a/b", SMALL, None, count)),
        (whole, Member("mid", SMALL, {}, count)),
        (),
    ):
        with pytest.raises(ElasticError):
            Family(PARENT, axes, members)
    with pytest.raises(ElasticError, match="provenance"):
        family(provenance={"loss": float("nan")})


@settings(max_examples=50)
@given(st.data())
def test_the_reason_exists_exactly_where_nesting_fails(data):
    parent: Parent = data.draw(parents())
    a, b = data.draw(chains(parent, 2))[1], data.draw(chains(parent, 2))[1]
    assert (why_not_nested(a, b) is None) == (a <= b)


OWN = PARENT.uniform([0, 1, 2, 4], hidden=8, ffn=12)  # in none of the members below the parent


def test_extra_shapes_are_kept_beside_the_members(tmp_path):
    plain = family()
    made = plain.with_extra("code", OWN, Budget("task", ratio=0.5)).with_extra("maths", SMALL)
    assert why_not_nested(OWN, SMALL) and why_not_nested(TINY, OWN)
    made.save(tmp_path)
    read = Family.load(tmp_path)
    assert read == made and read.extra_names == ("code", "maths") and read.names == plain.names
    assert read.member("code") == Member("code", OWN, {"ratio": 0.5}, parameters(PARENT, OWN))
    assert read.name_of(OWN) == "code" and read.name_of(SMALL) == "mid" and read.name_of(PARENT.uniform([0])) is None
    assert list(read) == list(plain) and list(path(read)) == list(path(plain))
    with pytest.raises(ElasticError, match="'cod' is not in this family; did you mean 'code'"):
        read.member("cod")


def test_an_extra_is_replaced_only_by_force():
    made = family().with_extra("code", OWN)
    with pytest.raises(ElasticError, match=r"extras\.code: already there; --force replaces it"):
        made.with_extra("code", SMALL)
    assert made.with_extra("code", SMALL, force=True).member("code").subnet == SMALL
    for name, line in (("mid", "a name that no member has"), ("../x", "letters, digits, dots and dashes")):
        with pytest.raises(ElasticError, match=line):
            made.with_extra(name, OWN, force=True)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda e: {"mid": e["code"]}, "extras: 'mid' is not allowed; each name once, and none that a member has"),
    ],
)
def test_hostile_extras_are_refused(change, line):
    data = family().with_extra("code", OWN).to_json()
    with pytest.raises(ElasticError, match=line):
        Family.from_json(data | {"extras": change(data["extras"])})
