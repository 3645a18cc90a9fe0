# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Options that are counts say their bounds in one line, before anything is done."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from nemo_elastic.cli.options import check_sizes, within
from nemo_elastic.errors import ElasticError


def test_an_option_that_was_not_given_stays_none() -> None:
    assert within(1, 9, "--count", "How many.").callback(None) is None


@pytest.mark.parametrize("value", [1, 5, 9])
def test_whole_numbers_up_to_both_bounds_are_taken(value: int) -> None:
    assert within(1, 9, "--count", "How many.").callback(value) == value


@pytest.mark.parametrize("value", [0, 10, -1, 2.5, True])
def test_others_get_the_option_and_its_bounds(value: Any) -> None:
    with pytest.raises(ElasticError, match=r"^--count: .* is not allowed; a whole number from 1 to 9$"):
        within(1, 9, "--count", "How many.").callback(value)


@pytest.mark.parametrize("bounds", [(0.0, 2), (0, 2.0)])
def test_a_bound_that_is_a_float_lets_fractions_in(bounds: tuple[float, float]) -> None:
    option = within(*bounds, "--temperature", "How hot.")
    assert [option.callback(v) for v in (0, 0.7, 2)] == [0, 0.7, 2]
    with pytest.raises(ElasticError, match=r"^--temperature: 2.5 is not allowed; a number from 0 to 2$"):
        option.callback(2.5)


def test_a_command_refuses_a_value_before_it_does_anything() -> None:
    done = []

    def command(count: Annotated[int, within(1, 9, "--count", "How many.")] = 5) -> None:
        done.append(count)

    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["--count", "7"]).exit_code == 0 and done == [7]
    refused = CliRunner().invoke(app, ["--count", "10"]).exception
    assert isinstance(refused, ElasticError) and done == [7]
    assert "How many." in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, ""),
        ({"--subnet": "a.json", "--ratio": "1"}, ", not --subnet and --ratio"),
        ({"--budget": ["a"], "--subnet": "a.json"}, ", not --budget and --subnet"),
    ],
)
def test_sizes_are_asked_for_or_one_other_way_is_taken(given: dict[str, Any], wrong: str) -> None:
    sizes, others = ({n: given.get(n) for n in names} for names in (("--params", "--ratio"), ("--budget", "--subnet")))
    line = f"slice: give --budget, or --subnet, or one or several of --params, --ratio{wrong}"
    with pytest.raises(ElasticError, match=f"^{line}$"):
        check_sizes("slice", sizes, others)


def test_sizes_may_be_several_and_another_way_stands_alone() -> None:
    check_sizes("slice", {"--params": "1", "--ratio": "0.5"}, {"--budget": None})
    check_sizes("slice", {"--params": None, "--ratio": "0.5"})
    check_sizes("slice", {"--params": None, "--ratio": None}, {"--budget": ["a", "b"]})
