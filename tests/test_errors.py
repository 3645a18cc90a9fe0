# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The wording of errors."""

from __future__ import annotations

import pytest

from nemo_elastic.errors import ElasticError, bad


def test_bad_names_field_value_and_what_is_allowed():
    error = bad("elastic.router.tau", -1, "use a number above 0")
    assert str(error) == error.message == "elastic.router.tau: -1 is not allowed; use a number above 0"


def test_it_is_a_value_error_that_survives_pickling():
    import pickle

    with pytest.raises(ValueError, match="'x' is not allowed"):
        raise bad("f", "x", "use y")
    assert str(pickle.loads(pickle.dumps(ElasticError("one line")))) == "one line"
