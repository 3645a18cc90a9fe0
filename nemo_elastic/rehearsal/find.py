# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which file a recipe is; nothing of it is read, so that a name that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.errors import bad


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: it, or its name in `recipes/`.

    Raises:
        ElasticError: there is no such file.
    """
    path = Path(name) if name.endswith(".py") else Path("recipes", f"{name}.py")
    if not path.is_file():
        there = sorted(p.stem for p in Path("recipes").glob("nemotron_elastic_*b.py"))
        raise bad("RECIPE", name, f"a recipe's file, or one of {', '.join(there) or 'recipes/ in this folder'}")
    return path
