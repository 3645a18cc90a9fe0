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


def test_bounds_are_allowed_and_in_the_help_and_others_are_refused_before_anything_is_done() -> None:
    done = []

    def command(heat: Annotated[float, within(0, 2, "--heat", "How hot.")] = 1) -> None:
        done.append(heat)

    app = typer.Typer()
    app.command()(command)
    for heat in (0, 0.7, 2):
        assert CliRunner().invoke(app, ["--heat", str(heat)]).exit_code == 0
    for heat in ("-0.1", "2.5", "nan", "inf", "hot"):
        assert CliRunner().invoke(app, ["--heat", heat]).exit_code == 2, heat
    assert done == [0, 0.7, 2]
    assert "How hot." in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, ""),
        ({"--subnet": "a.json", "--ratio": "1"}, ", not --subnet and --ratio"),
        ({"--member": ["a"], "--subnet": "a.json"}, ", not --member and --subnet"),
    ],
)
def test_sizes_are_asked_for_or_one_other_way_is_taken(given: dict[str, Any], wrong: str) -> None:
    sizes, others = ({n: given.get(n) for n in names} for names in (("--params", "--ratio"), ("--member", "--subnet")))
    line = f"slice: give --member, or --subnet, or one or several of --params, --ratio{wrong}"
    with pytest.raises(ElasticError, match=f"^{line}$"):
        check_sizes("slice", sizes, others)


def test_sizes_may_be_several_and_another_way_stands_alone() -> None:
    check_sizes("slice", {"--params": "1", "--ratio": "0.5"}, {"--member": None})
    check_sizes("slice", {"--params": None, "--ratio": "0.5"})
    check_sizes("slice", {"--params": None, "--ratio": None}, {"--member": ["a", "b"]})
