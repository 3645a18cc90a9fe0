# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of comparisons."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def largest(values: Iterable[float]) -> float:
    """The largest, 0 of none, and NaN where any is NaN, which Python's `max` drops. Compare with `<=`."""
    return float(np.max([*values], initial=0.0))
