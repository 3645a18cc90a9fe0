# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Options that are counts: each has a lowest and a highest value, and says so in one line before anything is done.

The highest values are above any use and below what would fill a memory, hang, or leave 64 bits on the way.
"""

from __future__ import annotations

from typing import Any

import typer

from nemo_elastic.io.values import integer, number

__all__ = ["BATCH", "TOKENS", "within"]

#: sequences at once, and tokens of a sequence or a text
BATCH, TOKENS = 10**6, 10**9


def within(low: float, high: float, name: str, help: str) -> Any:
    """An option for a whole number, or for any number where a bound is a float.

    Args:
        low: The lowest value that it may have.
        high: The highest.
        name: Its name with dashes.
        help: Its help; the bounds are in the line that a value outside of them gets.
    """

    def check(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(low, float) or isinstance(high, float):
            return number(name, value, low, high, f"a number from {low:g} to {high:g}")
        return integer(name, value, low, f"a whole number from {low} to {high}", high)

    return typer.Option(name, callback=check, help=help)
