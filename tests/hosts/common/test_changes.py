# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that have another value, as lines."""

from __future__ import annotations

from nemo_elastic.hosts.common.changes import Changes


class Plain(Changes):
    settings = staticmethod(dict)


def test_an_element_that_becomes_its_own_index_is_a_line() -> None:
    assert Plain({"split[0]": 7, "split[1]": 0}).lines({"split[0]": 7, "split[1]": 1}) == ["split[1]: 0 -> 1"]
