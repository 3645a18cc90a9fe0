# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes on Megatron-Bridge, for tests."""

from __future__ import annotations

from typing import Any

from recipes.families import family


def recipe_of(size: str) -> Any:
    """A family on Megatron-Bridge."""
    return family(f"bridge/nemotron_elastic_{size}")
