# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What of a run's YAML file NeMo-Run does not read as we need it: a whole recipe, and the data of one."""

from __future__ import annotations

import pydoc
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.run_file import value_of

#: the field of a recipe that names text. NeMo annotates it as a union of types, which NeMo-Run's parser refuses
PATHS = "data.paths"


def whole_recipe(data: Any) -> Any:
    """The recipe that NeMo-Run's YAML of one describes: `_target_`, `_partial_` and `_call_` as it writes them.

    NeMo-Run's own reader goes through the command line's parser, which takes neither a list of configs (callbacks,
    plugins) nor a class without a signature (timedelta). As there, the file names code to import: trusted input.

    Raises:
        ElasticError: a name cannot be imported, or has no such argument.
    """
    import nemo_run as run

    if isinstance(data, list):
        return [whole_recipe(x) for x in data]
    if not isinstance(data, dict):
        return data
    arguments = {k: whole_recipe(v) for k, v in data.items() if k not in ("_target_", "_partial_", "_call_")}
    if "_target_" not in data:
        return arguments
    try:
        target = pydoc.locate(data["_target_"])
        if target is None:
            raise ImportError("no such name")
        if not data.get("_call_", True):
            return target
        return (run.Partial if data.get("_partial_") else run.Config)(target, **arguments)
    except (ImportError, pydoc.ErrorDuringImport, TypeError) as error:
        raise ElasticError(f"_target_: {data['_target_']}: {str(error).splitlines()[0]}") from None


def give_data(recipe: Any, fields: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Let a recipe, which is changed, read what a run names as its data.

    `data: {_target_: …}` takes the place of the recipe's data, and has of them what it does not say itself: length,
    batch, tokenizer. `data.paths`, in the file or as an override, needs no target where a recipe makes up its tokens.

    Args:
        recipe: NeMo's.
        fields: of the run's file, those of the recipe.
        overrides: of the recipe.

    Returns:
        What of both NeMo-Run is to read.

    Raises:
        ElasticError: the target cannot be made, or has no paths.
    """
    import nemo_run as run
    from nemo.collections.llm.gpt.data import PreTrainingDataModule
    from nemo.collections.llm.gpt.data.mock import MockDataModule

    from nemo_elastic.hosts.nemo.recipe.checks import field_names, made_by

    section = fields.get("data")
    data = dict(section) if isinstance(section, Mapping) else {}
    paths = [data.pop("paths")] if "paths" in data else []
    paths += [value_of(PATHS, text.removeprefix(f"{PATHS}=")) for text in overrides if text.startswith(f"{PATHS}=")]
    target = data.pop("_target_", None)
    made: Any = PreTrainingDataModule if target is None else made_by(whole_recipe({"_target_": target}))
    if target is not None or (paths and made_by(recipe.data) is MockDataModule):
        known = field_names(made)
        recipe.data = run.Config(made, **{k: v for k, v in recipe.data.__arguments__.items() if k in known})
    if paths:
        made = made_by(recipe.data)
        if "paths" not in field_names(made):
            raise ElasticError(
                f"{PATHS}: {made.__name__} has no such field; data: {{_target_: …}} names another class"
            )
        recipe.data.paths = paths[-1]
    rest = {name: value for name, value in fields.items() if name != "data" or not isinstance(section, Mapping)}
    return rest | ({"data": data} if data else {}), [o for o in overrides if not o.startswith(f"{PATHS}=")]
