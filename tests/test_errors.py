# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The wording of errors."""

from __future__ import annotations

import pickle
import sys

import pytest

from nemo_elastic.errors import ElasticError, bad, did_you_mean, exit_in_one_line, printable


def test_bad_names_field_value_and_what_is_allowed():
    error = bad("elastic.router.tau", -1, "use a number above 0")
    assert str(error) == error.message == "elastic.router.tau: -1 is not allowed; use a number above 0"


def test_a_script_ends_in_one_line_and_exit_code_two(capsys):
    with pytest.raises(SystemExit) as left, exit_in_one_line():
        raise ElasticError("field: 1 is not\n  allowed")
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: field: 1 is not allowed\n"
    with pytest.raises(KeyError), exit_in_one_line():
        raise KeyError("a bug")


def lightning():
    """As Lightning's trainer ends."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("end", "code", "message"), [
    (ctrl_c, 130, "interrupted\n"), (lightning, 130, "interrupted\n"), (lambda: sys.exit(75), 75, ""),
])  # fmt: skip
def test_ctrl_c_ends_a_script_as_it_ends_a_command(capsys, end, code, message):
    with pytest.raises(SystemExit) as left, exit_in_one_line(), exit_in_one_line():
        end()
    assert (left.value.code, capsys.readouterr().err) == (code, message)


def test_what_a_line_quotes_moves_no_cursor_and_turns_no_writing():
    hostile = "a\x1b[2Jb\x07c\x9bd\u202ee\u2028f\x7fg\ud800h\nerror: i"
    for error in (ElasticError(f"tensors.{hostile}: missing"), bad(hostile, hostile, hostile)):
        assert str(error).isprintable() and "\n" not in str(error)
        assert str(ElasticError(str(error))) == str(error)
    assert printable(hostile) == r"a\x1b[2Jb\x07c\x9bd\u202ee\u2028f\x7fg\ud800h\nerror: i"
    assert printable("häuser 家 ok") == "häuser 家 ok"


@pytest.mark.parametrize("value", [10**5000, ["x" * 5000], {"a": "x" * 100_000}], ids=["integer", "list", "mapping"])
def test_no_value_is_too_large_for_a_line(value):
    assert len(str(bad("field", value, "small"))) < 600 and len(str(ElasticError("z" * 10**6))) < 4100


class Kind(ElasticError):
    """One that a caller catches."""


def test_the_nearest_name_is_given_for_names_alone():
    assert did_you_mean("budgetz", ["axes", "budgets"]) == "; did you mean 'budgets'?"
    assert did_you_mean("n" * 401, ["n" * 400]) == "", "to compare megabytes takes gigabytes"


def test_places_stand_before_what_is_said_once():
    error = bad("tau", -1, "use a number above 0")
    assert error.at == ("tau",)
    for moved in (Kind("said", "field").within("file"), Kind("said", "field").of("file.field")):
        assert type(moved) is Kind and moved.at[0].startswith("file")
    inside = error.within("run.yaml")
    assert str(inside) == "run.yaml: tau: -1 is not allowed; use a number above 0"
    field = bad("recipe.model.config.ffn", 3, "4")
    assert field.within("recipe.model.config") is field and field.within("recipe.mode").at[0] == "recipe.mode"
    assert inside.within("run.yaml") is inside, "a place that is named already is not named twice"
    assert isinstance(inside, ValueError) and str(error.within("a\tb.json")).startswith("a b.json: ")
    assert str(error.of("elastic.router.tau")) == "elastic.router.tau: -1 is not allowed; use a number above 0"
    assert str(pickle.loads(pickle.dumps(inside))) == str(inside), "ranks send errors to each other"
