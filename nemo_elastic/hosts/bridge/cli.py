# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic train --host bridge`: a recipe of Megatron-Bridge's by its name, overrides, and the elastic block.

A container is plain dataclasses, so an override is a dotted name of one of their fields and a YAML value; each rank of
`torchrun` reads the same line.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from nemo_elastic.errors import ElasticError, bad, did_you_mean, exit_in_one_line
from nemo_elastic.hosts.common.logs import import_quietly
from nemo_elastic.hosts.common.run_file import RunFile, value_of

__all__ = ["find_stock", "main", "override"]

#: modules in which a recipe is looked up by its name
RECIPES = (
    "nemo_elastic.hosts.bridge.tiny",
    "megatron.bridge.recipes.nemotronh.nemotron_nano_v2",
    "megatron.bridge.recipes.nemotronh",
    "megatron.bridge.recipes",
    "nemo_elastic.hosts.bridge.parents",
)


def find_stock(factory: str) -> Callable[..., Any]:
    """A recipe of Bridge's by its name, or by its import path, `package.module.function`."""
    module, _, name = factory.rpartition(".")
    known: list[str] = []
    for place in (module,) if module else RECIPES:
        try:
            package = importlib.import_module(place)
        except ImportError as error:
            if not module and getattr(error, "name", None) == place:  # Bridge 0.7 has dropped it
                continue
            raise ElasticError(f"--factory {factory}: {error}") from None
        if callable(getattr(package, name, None)):
            return getattr(package, name)
        known += [n for n in dir(package) if n.endswith("config")]
    raise bad("--factory", factory, "the name of a recipe" + did_you_mean(name, known))


def override(config: Any, name: str, value: Any) -> None:
    """Set a field of a container by its dotted name."""
    owner, parts = config, name.split(".")
    for i, part in enumerate(parts):
        known = {f.name: str(f.type) for f in fields(owner)} if is_dataclass(owner) else {}
        if part not in known:
            raise ElasticError(f"{'.'.join(parts[:i]) or 'recipe'}: unknown field {part!r}{did_you_mean(part, known)}")
        inside = parts[i + 1 :]
        if inside and "dict[" in known[part].lower():  # of any keys, and None where a recipe has no key
            setattr(owner, part, {**(getattr(owner, part) or {}), ".".join(inside): value})
            return
        if inside:
            owner = getattr(owner, part)
    setattr(owner, parts[-1], value)


def main(argv: Sequence[str], factory: str | None, yaml: str | None, dryrun: bool) -> None:
    """Train, or with `dryrun` print what would be changed; a mistake of the user's is one line and exit code 2."""
    with exit_in_one_line():
        file = RunFile.load(yaml).override(argv)
        name = factory or file.recipe.pop("_factory_", None)
        if name is None:
            raise bad("--factory", None, "a recipe of Megatron-Bridge's, e.g. nemotron_nano_12b_v2_pretrain_config")
        with import_quietly():
            recipe = find_stock(name)
            given, rest = _arguments(recipe, file.overrides)
            config = recipe(**given)
            from megatron.bridge.utils.common_utils import get_rank_safe

            from .apply import apply_elastic
        for field, value in [*_flat(file.recipe), *rest]:
            override(config, field, value)
        run = file.apply(config, apply_elastic)
        if dryrun:
            if get_rank_safe() == 0:
                print("nothing was started", flush=True)
            return
        run.pretrain_to_logs()


def _arguments(recipe: Callable[..., Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Overrides that are arguments of a recipe's function, as those of the tiny one; and the others, of its fields."""
    known, given, rest = inspect.signature(recipe).parameters, {}, []
    for text in overrides:
        name, operator, value = text.partition("=")
        if not operator or name.endswith(("+", "-", "*", "/", "|")):
            raise bad("override", text, "field=value")
        if name in known:
            given[name] = value_of(name, value)
        else:
            rest.append((name, value_of(name, value)))
    for name, parameter in known.items():
        wanted = parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        if wanted and name not in given:
            raise bad(name, None, f"an argument of {recipe.__name__}: {name}=VALUE")
    return given, rest


def _flat(data: Any, name: str = "") -> list[tuple[str, Any]]:
    """Fields of a YAML file by dotted names."""
    if not isinstance(data, dict) or (name and not data):
        return [(name, data)]
    return [pair for key, value in data.items() for pair in _flat(value, f"{name}.{key}" if name else str(key))]
