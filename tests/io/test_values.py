# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Single values: what is taken, and the line that everything else gets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.values import (
    integer,
    keep_plain,
    number,
    parse_count,
    parse_float,
    parse_size,
    plain,
    three_digits,
)


def test_a_number_is_taken_at_its_bounds_and_not_beyond() -> None:
    assert number("x", 0, 0, 1.5, "allowed") == 0 and number("x", 1.5, 0, 1.5, "allowed") == 1.5
    for wrong in (-1e-9, 1.6, math.nan, True, "1"):
        with pytest.raises(ElasticError, match=r"^x: .* is not allowed; 0 to 1.5$"):
            number("x", wrong, 0, 1.5, "0 to 1.5")


def test_a_whole_number_is_taken_at_its_bounds_and_not_beyond() -> None:
    assert [integer("n", n, 1, "allowed", high=3) for n in (1, 3)] == [1, 3]
    assert integer("n", 2**63 - 1, 1, "allowed") == 2**63 - 1
    with pytest.raises(ElasticError, match=r"^n: 9223372036854775808 is not allowed; allowed$"):
        integer("n", 2**63, 1, "allowed")
    for wrong in (0, 4, 2.0, True, np.bool_(True)):
        with pytest.raises(ElasticError, match=r"^n: .* is not allowed; 1 to 3$"):
            integer("n", wrong, 1, "1 to 3", high=3)


def test_whole_numbers_of_numpy_become_those_of_python_and_nothing_else_changes() -> None:
    assert type(plain(np.uint8(2))) is int and type(integer("n", np.uint8(2), 1, "allowed")) is int
    for given in (True, 2.5, "2", np.float32(2)):
        assert plain(given) is given


def test_a_frozen_record_holds_whole_numbers_of_python() -> None:
    @dataclass(frozen=True)
    class Record:
        size: Any
        name: Any

        def __post_init__(self) -> None:
            keep_plain(self)

    record = Record(np.int32(7), "seven")
    assert type(record.size) is int and record == Record(7, "seven")


def test_a_size_has_a_unit_of_ten_or_of_two() -> None:
    assert [parse_size("m", text) for text in ("7B", "1KB", "1.5 KiB", "1GB", "1GiB")] == [7, 1000, 1536, 10**9, 2**30]
    assert [parse_float(text) for text in ("3e-3", "60%", "0.5x")] == [0.003, 0.6, "0.5x"]
    assert parse_size("m", 18) == parse_size("m", np.int64(18)) == 18


@pytest.mark.parametrize("wrong", [0, True, 1.5, "", "18", "xGiB", "0GiB", "1e400GiB", "1gib", 2**63, "1e11GiB"])
def test_what_is_no_size_is_refused(wrong: Any) -> None:
    with pytest.raises(ElasticError, match=r"^m: .* is not allowed"):
        parse_size("m", wrong)


def test_a_figure_has_three_digits_and_no_exponent() -> None:
    figures = {0.0603: "0.0603", 7: "7", 18.24: "18.2", 999.4: "999", 999.6: "1000", 1010.2: "1010", 4192.3: "4192"}
    assert {value: three_digits(value) for value in figures} == figures


@pytest.mark.parametrize(
    ("text", "count"),
    [("6e9", 6e9), ("8.9b", 8.9e9), ("850M", 8.5e8), ("5k", 5e3), ("1T", 1e12), ("900,000", 9e5), (12, 12)],
)
def test_counts(text: str | float, count: float) -> None:
    assert parse_count("--params", text) == pytest.approx(count)


@pytest.mark.parametrize("text", ["", "6GB", "0", "nan", "1e300", "6,5B", "9,00", True, [1]])
def test_no_counts(text: object) -> None:
    with pytest.raises(ElasticError, match=r"^--params: "):
        parse_count("--params", text)
