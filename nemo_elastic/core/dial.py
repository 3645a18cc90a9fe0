# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The dial of a family that chooses by itself who answers: what an answer may cost."""

from __future__ import annotations

from typing import Any

from nemo_elastic.io.values import number


def check_cost(cost: Any, name: str = "cost") -> float:
    """The dial, if it is one.

    Args:
        cost: what was given.
        name: of the field, for errors.

    Raises:
        ElasticError: it is no number from 0 to 1.
    """
    return number(name, cost, 0, 1, "a number from 0, always the smallest member, to 1, always the largest")
