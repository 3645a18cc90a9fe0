# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be said of measured figures: which differences count, and how sure a share is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

__all__ = ["FEW", "SHARED", "TIE", "Interval", "closed", "ratio_interval", "wilson"]

#: held-out losses (nats per token) that are closer than this are called equal: nothing is better or worse by less
TIE = 0.005
#: a gap between two losses that is smaller has no share that training could close: it is not known to a tenth
SHARED = 10 * TIE
#: the fewest values that an interval around their mean is given for
FEW = 2
#: of the standard normal distribution, 97.5%
_QUANTILE = 1.959963984540054
#: Student's, of 1 to 6 degrees of freedom, where `_student`'s expansion is not yet right
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469)


def closed(untrained: float, trained: float, parent: float) -> float | None:
    """Share of a gap in loss that training closed: 0 as the untrained cut, 1 as the parent, above 1 better than it.

    None where the gap is smaller than `SHARED`, or none at all as for the parent's own shape.
    """
    gap = untrained - parent
    return (untrained - trained) / gap if gap >= SHARED else None


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of 95% around a share: within 0 and 1, and of some width at 0 and 1, too.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    share, spread = correct / total, _QUANTILE**2 / total
    middle = (share + spread / 2) / (1 + spread)
    reach = _QUANTILE / (1 + spread) * sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))  # rounding apart


@dataclass(frozen=True)
class Interval:
    """A mean and the interval of 95% around it.

    Attributes:
        mean, low, high: in the unit of the values.
        count: how many values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def above_zero(self) -> bool:
        """Whether all of it is: the mean is larger than nothing."""
        return self.low > 0


def ratio_interval(sums: Sequence[float], weights: Sequence[float]) -> Interval:
    """Interval of 95% around a mean over all elements of clusters, of which the clusters alone are independent.

    The mean is the ratio of two sums over clusters; its variance is that of the clusters' residuals (W. G. Cochran,
    "Sampling Techniques", 1977, 6.4), with Student's quantile of one degree of freedom less than clusters.

    Args:
        sums: of each cluster, the sum over its elements; at least `FEW`.
        weights: of each cluster, how many elements it has, above 0.
    """
    count, total = len(sums), sum(weights)
    if count < FEW:
        raise ValueError(f"{count} values have no interval; {FEW} are the fewest")
    mean = sum(sums) / total
    squares = sum((s - mean * w) ** 2 for s, w in zip(sums, weights, strict=True))
    reach = _student(count - 1) * sqrt(count / (count - 1) * squares) / total
    return Interval(mean, mean - reach, mean + reach, count)


def _student(n: int) -> float:
    """Student's quantile of 97.5% for n degrees of freedom, right to a thousandth.

    From 7 on it is the Cornish-Fisher expansion about the normal one (Abramowitz & Stegun 26.7.5).
    """
    if n <= len(_STUDENT):
        return _STUDENT[n - 1]
    z = _QUANTILE
    quantile = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    return quantile + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
