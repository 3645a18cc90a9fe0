# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes on Megatron-Bridge, for tests."""

from __future__ import annotations

from typing import Any

from nemo_elastic.hosts.common.recipe_file import load_recipe
from tests.workers import ROOT


def recipe_of(size: str) -> Any:
    """The family of a recipe in recipes/bridge."""
    return load_recipe(ROOT / "recipes" / "bridge" / f"nemotron_elastic_{size}.py")
