# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Large recipes by their names: rows of recipes/families.py, or files of a user's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import nemo_elastic
from nemo_elastic.errors import bad
from nemo_elastic.extras import require

from .planned import PlannedFamily

__all__ = ["Row", "find_recipe"]

#: host -> the class of its families. On NeMo jobs are recipes and need NeMo; on Megatron-Bridge they are plain values
HOSTS = {
    "nemo": "nemo_elastic.hosts.nemo.curriculum.large:FamilyRecipe",
    "bridge": "nemo_elastic.hosts.bridge.curriculum:BridgeFamily",
}
#: the table, in the folder where a command is called, in the installed package, or beside the package in a clone
PACKAGE = Path(nemo_elastic.__file__).parent
TABLES = [place / "recipes" / "families.py" for place in (Path(), PACKAGE, PACKAGE.parent)]


class Stock:
    """A host's recipe by its import path, `module:function`, imported when it is called."""

    def __init__(self, path: str) -> None:
        self.__module__, self.__qualname__ = path.split(":")

    def __call__(self) -> Any:
        return resolve_name(f"{self.__module__}:{self.__qualname__}")()


@dataclass(frozen=True)
class Row:
    """A family whose host is not imported yet: the hosts are in environments of their own.

    Attributes:
        host: nemo or bridge.
        stock: import path of the host's recipe of the parent, `module:function`.
        shape, block, chat: see `PlannedFamily`.
    """

    host: str
    stock: str
    shape: str
    block: Path
    chat: bool = False

    def family(self, name: str) -> PlannedFamily:
        """The family, by its name in the table.

        Raises:
            ModuleNotFoundError: NeMo is not installed.
        """
        if self.host == "nemo":
            require("nemo")
            title, stock = name, resolve_name(self.stock)
        else:
            title, stock = f"{name.rpartition('/')[2]}_{self.host}", Stock(self.stock)
        return resolve_name(HOSTS[self.host])(title, stock, self.shape, self.block, self.chat)


def find_recipe(name: str) -> Callable[[], PlannedFamily]:
    """What gives a recipe's family. Its host is not imported before, so that a wrong name is reported at once.

    Args:
        name: in the table of `recipes/`: `nemotron_elastic_9b`, `bridge/nemotron_elastic_9b`; or a file.

    Raises:
        ElasticError: there is no such recipe.
    """
    if name.endswith(".py") and Path(name).is_file():
        return partial(_load, Path(name))
    rows: Mapping[str, Row] = _run(next(filter(Path.is_file, TABLES))).FAMILIES
    if name in rows:
        return partial(rows[name].family, name)
    raise bad("RECIPE", name, f"a recipe's file, or one of {', '.join(rows)}")


def _load(path: Path) -> PlannedFamily:
    """The family of a user's own file."""
    family = getattr(_run(path), "FAMILY", None)
    if not isinstance(family, PlannedFamily):
        raise bad("RECIPE", str(path), "a file with FAMILY, the family whose jobs it describes")
    return family


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise bad("RECIPE", str(path), f"a Python file ({error.msg}, line {error.lineno})") from None
    return module
