# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single values: each returns the value or raises one clear line."""

from __future__ import annotations

import re
from dataclasses import fields
from numbers import Integral
from typing import Any

from nemo_elastic.errors import bad

#: the largest whole number that is taken: others do not fit into 64 bits
MOST = 2**63 - 1
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
#: a regular expression: a whole number with commas between thousands
THOUSANDS = "[0-9]{1,3}(,[0-9]{3})+"
_COUNTS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def three_digits(value: float) -> str:
    """A figure to read, in three digits and no exponent: 0.603, 18.2, 1010."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def human_bytes(count: float) -> str:
    """Bytes in three digits: 18.2 GiB."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def number(name: str, value: Any, low: float, high: float, allowed: str) -> float:
    """A finite number in [low, high], booleans excluded."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise bad(name, value, allowed)
    return value


def integer(name: str, value: Any, low: int, allowed: str, high: int = MOST) -> int:
    """A whole number in [low, high] as `int`; numpy integers are converted, as JSON cannot write them; no booleans."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise bad(name, value, allowed)
    return number


def plain(value: Any) -> Any:
    """Convert numpy integers to `int`; other values are unchanged."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, (bool, int)) else value


def keep_plain(record: Any) -> None:
    """Convert a frozen dataclass's numpy integers to `int`; for its `__post_init__`."""
    for f in fields(record):
        value = getattr(record, f.name)
        if (converted := plain(value)) is not value:
            object.__setattr__(record, f.name, converted)


def parse_float(text: str) -> float | str:
    """A number, also from text in percent; other text is returned as it is."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return float(text)
    except ValueError:
        return text


def parse_count(name: str, value: Any) -> float:
    """A number of parameters, also from text such as 6e9, 6B, 850M or 900,000; at least 1."""
    count = value
    if isinstance(value, str):
        value = value.replace(",", "") if re.fullmatch(THOUSANDS, value) else value
        unit = _COUNTS.get(value[-1:].upper(), 1.0)
        try:
            count = float(value[:-1] if unit > 1 else value) * unit
        except ValueError:
            count = 0.0
    if isinstance(count, bool) or not isinstance(count, (int, float)) or not 1 <= count <= 1e15:
        raise bad(name, value, "a number of parameters such as 6e9, 6B or 850M")
    return count


def parse_size(name: str, value: Any) -> int:
    """Bytes from an integer or from text such as 18GiB."""
    value = plain(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST:
        return value
    if isinstance(value, str):
        for unit in sorted(UNITS, key=len, reverse=True):
            if value.endswith(unit):
                try:
                    size = int(float(value[: -len(unit)]) * UNITS[unit])
                except (ValueError, OverflowError):
                    break
                if 0 < size <= MOST:
                    return size
                break
    raise bad(name, value, f"a size such as 18GiB (units {', '.join(UNITS)})")
