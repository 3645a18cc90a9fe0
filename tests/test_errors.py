# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The wording of errors."""

from __future__ import annotations

import pytest

from nemo_elastic.errors import ElasticError, bad, exit_in_one_line


def test_bad_names_field_value_and_what_is_allowed():
    error = bad("elastic.router.tau", -1, "use a number above 0")
    assert str(error) == error.message == "elastic.router.tau: -1 is not allowed; use a number above 0"


def test_it_is_a_value_error_that_survives_pickling():
    import pickle

    with pytest.raises(ValueError, match="'x' is not allowed"):
        raise bad("f", "x", "use y")
    assert str(pickle.loads(pickle.dumps(ElasticError("one line")))) == "one line"


def test_a_script_ends_in_one_line_and_exit_code_two(capsys):
    with pytest.raises(SystemExit) as left, exit_in_one_line():
        raise ElasticError("field: 1 is not\n  allowed")
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: field: 1 is not allowed\n"
    with pytest.raises(KeyError), exit_in_one_line():
        raise KeyError("a bug")
