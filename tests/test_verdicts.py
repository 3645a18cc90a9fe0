# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be said of measured figures."""

from __future__ import annotations

from dataclasses import astuple
from math import sqrt

import pytest

from nemo_elastic.verdicts import FEW, SHARED, Interval, closed, ratio_interval, wilson


@pytest.mark.parametrize(("correct", "total"), [(0, 96), (1, 3), (48, 96), (7, 7)])
def test_the_ends_of_the_interval_are_where_the_share_is_just_likely(correct: int, total: int) -> None:
    share = correct / total
    low, high = wilson(correct, total)
    assert 0 <= low <= share <= high <= 1 and high > low
    for end in {low, high} - {0.0, 1.0}:  # (share - end) in standard deviations of the end
        assert abs(share - end) == pytest.approx(1.959963984540054 * sqrt(end * (1 - end) / total))


def test_figures_of_the_literature() -> None:
    # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
    # table I
    for correct, total, report in ((81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611))):
        assert wilson(correct, total) == pytest.approx(report, abs=5e-5)


def test_a_share_of_a_gap_is_reported_where_there_is_one() -> None:
    assert closed(4.0, 3.2, 3.0) == pytest.approx(0.8)
    assert closed(4.0, 4.5, 3.0) == pytest.approx(-0.5)
    assert closed(3.0 + 0.99 * SHARED, 3.0, 3.0) is None and closed(3.0 - 1e-10, 3.0, 3.0) is None


def interval(values: list[float]) -> Interval:
    """Around the mean of single values."""
    return ratio_interval(values, [1.0] * len(values))


def test_the_interval_around_a_mean_has_students_quantiles() -> None:
    # W. S. Gosset's quantiles at 97.5%, as in every table
    table = {2: 12.7062, 3: 4.3027, 8: 2.3646, 31: 2.0423, 10_001: 1.9602}
    for count, quantile in table.items():
        values = [float(i) for i in range(count)]
        mean = (count - 1) / 2
        error = sqrt(sum((v - mean) ** 2 for v in values) / (count - 1) / count)
        actual = interval(values)
        assert (actual.mean, actual.count) == (pytest.approx(mean), count)
        assert (actual.high - mean) / error == pytest.approx(quantile, abs=1e-3)
        assert mean - actual.low == pytest.approx(actual.high - mean)


def test_an_interval_says_whether_there_is_anything() -> None:
    assert interval([0.5, 1.5] * 8).above_zero
    around = interval([-1.0, 1.2] * 4)
    assert around.low <= 0 <= around.high
    below = interval([-0.5, -1.5] * 8)
    assert not below.above_zero and below.high < 0
    same = interval([0.0] * FEW)
    assert same.low <= 0 <= same.high and not same.above_zero
    with pytest.raises(ValueError, match="2 are the fewest"):
        interval([1.0] * (FEW - 1))


def test_the_interval_of_a_ratio_is_over_clusters() -> None:
    values, split = [0.3, -0.1, 0.8, 0.4], [0.1, 0.2, -0.1, 0.3, 0.5, 0.4]
    assert astuple(ratio_interval([3 * v for v in values], [3.0] * 4)) == pytest.approx(astuple(interval(values)))
    # clusters of 2, 1 and 3 elements, by hand: residuals of their sums
    sums, sizes = [split[0] + split[1], split[2], sum(split[3:])], [2.0, 1.0, 3.0]
    mean = sum(split) / 6
    residuals = [s - mean * n for s, n in zip(sums, sizes, strict=True)]
    reach = 4.3027 * sqrt(3 / 2 * sum(r * r for r in residuals)) / 6
    actual = ratio_interval(sums, sizes)
    assert (actual.mean, actual.count) == (pytest.approx(mean), 3)
    assert actual.high - mean == pytest.approx(reach) == mean - actual.low
