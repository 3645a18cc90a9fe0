# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that have another value, as lines."""

from __future__ import annotations

from nemo_elastic.hosts.common.changes import Changes


def test_an_element_that_becomes_its_own_index_is_a_line() -> None:
    assert Changes({"split": [7, 0]}).lines({"split": [7, 1]}) == ["split[1]: 0 -> 1"]
