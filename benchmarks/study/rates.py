# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Peak learning rates: what the study `rates` tries for every way and size, and the best, which every run takes.

The best is chosen on one half of the held-out text, and all that tables report is of the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

#: the two halves of the held-out text
TUNED, REPORTED = "tuned", "reported"


def held_out_parts(tokens: T) -> dict[str, T]:
    """A stream of held-out tokens in two parts that share none: to choose by, and to report on."""
    stream: Any = tokens
    middle = len(stream) // 2
    return {TUNED: stream[:middle], REPORTED: stream[middle:]}


def to_choose_by(result: Mapping[str, Any]) -> Mapping[str, float]:
    """Losses of a run's members that a choice may go by; results of before the halves have one loss for both."""
    return result.get(TUNED, result["losses"])


#: steps of every run that tries a rate
STEPS = 120
#: way -> size -> rates, a factor of two apart; "all" where one run makes every size
TRIED: dict[str, dict[str, tuple[float, ...]]] = {
    "ours": {"all": (2.5e-4, 5e-4, 1e-3)},
    "alone": {
        "85": (6.25e-5, 1.25e-4, 2.5e-4, 5e-4),  # these and those at 60 in the study `five`
        "72": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
        "60": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
        "50": (2.5e-4, 5e-4, 1e-3),
    },
    "modelopt": {
        "85": (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3),
        "72": (2.5e-4, 5e-4, 1e-3, 2e-3),
        "60": (5e-4, 1e-3, 2e-3, 4e-3),
        "50": (5e-4, 1e-3, 2e-3, 4e-3),
    },
    "minitron": {"72": (2.5e-4, 5e-4, 1e-3, 2e-3), "50": (5e-4, 1e-3, 2e-3, 4e-3)},
    "scratch": {"72": (1.5e-3, 3e-3, 6e-3), "50": (1.5e-3, 3e-3, 6e-3)},
}
#: the best of each by the loss to choose by, of a family by the mean over its smaller members; a test holds them
#: against the kept results, and that none stands at an edge
BEST: dict[str, dict[str, float]] = {
    "ours": {"all": 5e-4},
    "alone": {"85": 2.5e-4, "72": 2.5e-4, "60": 2.5e-4, "50": 5e-4},
    "modelopt": {"85": 2.5e-4, "72": 5e-4, "60": 1e-3, "50": 1e-3},
    "minitron": {"72": 5e-4, "50": 1e-3},
    "scratch": {"72": 3e-3, "50": 3e-3},
}

#: the same of members alone in shorter runs, of the study `five`: steps -> size -> rates; 15 steps take those of 30
FIVE_TRIED: dict[int, dict[str, tuple[float, ...]]] = {
    30: {"85": (6.25e-5, 1.25e-4, 2.5e-4, 5e-4), "72": (6.25e-5, 1.25e-4, 2.5e-4, 5e-4),
         "60": (1.25e-4, 2.5e-4, 5e-4, 1e-3), "50": (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)},
    60: {"85": (1.25e-4, 2.5e-4, 5e-4), "72": (1.25e-4, 2.5e-4, 5e-4), "60": (1.25e-4, 2.5e-4, 5e-4),
         "50": (2.5e-4, 5e-4, 1e-3)},
}  # fmt: skip
FIVE_BEST: dict[int, dict[str, float]] = {
    30: {"85": 1.25e-4, "72": 1.25e-4, "60": 2.5e-4, "50": 2.5e-4},
    60: {"85": 2.5e-4, "72": 2.5e-4, "60": 2.5e-4, "50": 5e-4},
}

#: the same of the study `experts`
EXPERTS_TRIED: dict[str, dict[str, tuple[float, ...]]] = {
    "ours": {"all": (2.5e-4, 5e-4, 1e-3, 2e-3)},
    "alone": {"66": (1.25e-4, 2.5e-4, 5e-4), "45": (2.5e-4, 5e-4, 1e-3)},
}
EXPERTS_BEST: dict[str, dict[str, float]] = {
    "ours": {"all": 5e-4},
    "alone": {"66": 2.5e-4, "45": 5e-4},
    "scratch": {"66": 3e-3, "45": 3e-3},  # not tried: the rate of the parent's training
}
