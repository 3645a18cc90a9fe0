# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which file a large recipe is, whose host it needs, and the family in it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from nemo_elastic.errors import bad
from nemo_elastic.extras import require
from nemo_elastic.io.bounded import read_text

from .planned import PlannedFamily

__all__ = ["find_recipe", "host_of", "load_recipe"]

#: host -> the package without which its recipes cannot be read
NEEDED = {"nemo": "nemo", "bridge": "megatron.bridge"}


def find_recipe(name: str) -> Path:
    """The file of a recipe. Nothing of it is read, so that a name that is wrong is reported at once.

    Args:
        name: it, or its name in `recipes/`: `nemotron_elastic_9b`, `bridge/nemotron_elastic_9b`.

    Raises:
        ElasticError: there is no such file.
    """
    here = Path("recipes")
    path = Path(name) if name.endswith(".py") else here / f"{name}.py"
    if not path.is_file():
        files = [*here.glob("nemotron_elastic_*b*.py"), *here.glob("bridge/nemotron_elastic_*b*.py")]
        there = sorted((p.relative_to(here).with_suffix("").as_posix() for p in files), key=lambda n: ("/" in n, n))
        raise bad("RECIPE", name, f"a recipe's file, or one of {', '.join(there) or 'recipes/ in this folder'}")
    return path


def host_of(path: Path) -> str:
    """Whose recipe a file is, by what it imports: bridge, or else nemo. Nothing of it runs."""
    try:
        tree = ast.parse(read_text(path, own=True))
    except SyntaxError as error:
        raise bad("RECIPE", str(path), f"a Python file ({error.msg}, line {error.lineno})") from None
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return (
        "bridge"
        if any(name.startswith(("megatron.bridge", "nemo_elastic.hosts.bridge")) for name in names)
        else "nemo"
    )


def load_recipe(path: Path) -> PlannedFamily:
    """The family of a recipe's file.

    Raises:
        ElasticError: it has no `FAMILY`.
        ModuleNotFoundError: its host is not installed.
    """
    require(NEEDED[host_of(path)])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    family = getattr(module, "FAMILY", None)
    if not isinstance(family, PlannedFamily):
        raise bad("RECIPE", str(path), "a file with FAMILY, the family whose jobs it describes")
    return family
