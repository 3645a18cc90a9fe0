# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Fields by their annotations: what is read, the line that everything else gets, and the schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.fields import PATH, Between, Length, OneOf, check, check_version, kept, read, schema_of


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        name: of it.
        weight: of it.
    """

    name: str
    weight: Annotated[float, Between(0, 2)] = 1.0


@dataclass(frozen=True)
class Whole:
    """All kinds of fields.

    Attributes:
        count: a; parts: b; pair: c; word: d; rates: e; least: f; place: g; on: h; more: i; limit: j; any: k.
    """

    count: int
    parts: tuple[Part, ...]
    pair: Annotated[tuple[Annotated[float, Between(0)], float], Length(said="two numbers")] = (0.0, 1.0)
    word: Annotated[str, OneOf(("low", "high"))] | None = None
    rates: Annotated[Mapping[str, Annotated[float, Between(high=1)]], OneOf(("a", "b"))] | None = None
    least: Annotated[int, Between(1)] = 1
    place: Annotated[str, PATH] | None = None
    on: bool = False
    more: Mapping[str, int] = field(default_factory=dict)
    limit: Annotated[Mapping[str, Any], kept(Part)] | None = None
    any: Any = None

    def __post_init__(self) -> None:
        check(self, "whole")


GIVEN: dict[str, Any] = {"count": 3, "parts": [{"name": "x"}]}


def test_a_mapping_becomes_a_dataclass_with_its_values_as_the_annotations_say() -> None:
    more = {
        "pair": [np.int64(2), 3.5],
        "rates": {"b": 1},
        "place": Path("p"),
        "limit": {"name": "y"},
        "least": np.int8(2),
    }
    whole = read(Whole, GIVEN | more, "file")
    assert whole.parts == (Part("x", 1.0),) and whole.pair == (2, 3.5) and type(whole.pair[0]) is int
    assert (whole.rates, whole.place, whole.limit, whole.least) == ({"b": 1}, "p", {"name": "y"}, 2)
    assert read(Whole, whole, "file") is whole
    assert Whole(3, parts=[{"name": "x"}]) == read(Whole, GIVEN, "file")  # type: ignore[arg-type]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cout": 3}, "file: unknown field 'cout'; did you mean 'count'? (allowed: count, parts, pair, word, rates,"),
    ({"count": 1.0}, "file.count: 1.0 is not allowed; a whole number"),
    ({"parts": [{"weight": 1}]}, "file.parts[0].name: missing"),
    ({"parts": [{"name": "x", "weight": 3}]}, "file.parts[x].weight: 3 is not allowed; from 0 to 2"),
    ({"parts": [7]}, "file.parts[0]: 7 is not allowed; a mapping with name, weight"),
    ({"pair": [1]}, "file.pair: [1] is not allowed; two numbers"),
    ({"pair": [0, math.inf]}, "file.pair: inf is not allowed; at least 0"),
    ({"word": "mid"}, "file.word: 'mid' is not allowed; null or one of low, high"),
    ({"rates": {"c": 1}}, "file.rates: unknown field 'c' (allowed: a, b)"),
    ({"rates": {}}, "file.rates: {} is not allowed; at least one of a, b"),
    ({"rates": {"a": 2}}, "file.rates.a: 2 is not allowed; at most 1"),
    ({"least": 0}, "file.least: 0 is not allowed; at least 1"),
    ({"place": 1}, "file.place: 1 is not allowed; a path"),
    ({"on": 1}, "file.on: 1 is not allowed; true or false"),
    ({"more": {"a": None}}, "file.more.a: missing; a whole number"),
]


@pytest.mark.parametrize(("change", "line"), WRONG, ids=lambda x: str(x)[:30])
def test_everything_else_is_one_line_and_no_valid_json(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ElasticError) as caught:
        read(Whole, GIVEN | change, "file")
    assert str(caught.value).startswith(line)
    if not any(isinstance(value, float) and not math.isfinite(value) for value in change.get("pair", [])):
        assert not Draft202012Validator(schema_of(Whole)).is_valid(GIVEN | change) or change == {"count": 1.0}


def test_a_file_has_no_name_of_its_own_and_a_constructor_checks() -> None:
    with pytest.raises(ElasticError, match=r"^count: missing$"):
        read(Whole, {}, "")
    with pytest.raises(ElasticError, match=r"^unknown field 'x'"):
        read(Whole, {"x": 1}, "")
    with pytest.raises(ElasticError, match=r"^whole\.least: 0"):
        Whole(1, (), least=0)
    assert Whole(1, (), least=2**63 - 1).least == 2**63 - 1
    for more in ({"least": 2**63}, {"pair": (10**400, 1.0)}):
        with pytest.raises(ElasticError, match=r"^whole\.\w+: 9?.* is not allowed; a number of 64 bits$"):
            Whole(1, (), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [2, True])
def test_another_version_is_named_whatever_else_the_file_has(version: Any) -> None:
    check_version({"version": 1}, 1)
    for data, line in (({}, "version: missing"), ([], r"\[\] is not allowed; a mapping")):
        with pytest.raises(ElasticError, match=f"^{line}$"):
            check_version(data, 1)
    with pytest.raises(ElasticError, match=r"^version: .* is not allowed; this nemo-elastic reads version 1$"):
        check_version({"version": version, "new": 1}, 1)


def test_what_is_read_is_valid_json() -> None:
    Draft202012Validator.check_schema(schema_of(Whole))
    more = {"pair": [2, 3.5], "rates": {"b": 1}, "place": "p", "limit": {"name": "y"}, "more": {"n": 3}, "word": "low"}
    assert Draft202012Validator(schema_of(Whole)).is_valid(GIVEN | more)
    assert schema_of(Whole)["required"] == ["count", "parts"]
