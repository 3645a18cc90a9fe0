# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be said of measured figures: which differences count, and how sure a share is."""

from __future__ import annotations

from math import sqrt

__all__ = ["SHARED", "TIE", "closed", "wilson"]

#: held-out losses (nats per token) that are closer than this are called equal: nothing is better or worse by less
TIE = 0.005
#: a gap between two losses that is smaller has no share that training could close: it is not known to a tenth
SHARED = 10 * TIE
#: of the standard normal distribution, 97.5%
_QUANTILE = 1.959963984540054


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
