# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run's YAML file and overrides, split into fields of the recipe and arguments of `apply_elastic`.

A host takes ten seconds to import: reading a file, and refusing it, needs none of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.hosts.common.stage import STAGE_OPTIONS
from nemo_elastic.hosts.common.token_files import files_of, is_there
from nemo_elastic.io.read import read_text, read_yaml, resolved

#: names that are not fields of the recipe: the arguments of `apply_elastic`
SETTINGS = ("elastic", *STAGE_OPTIONS)
#: settings that are text, whatever YAML makes of it
TEXT = ("teacher", "previous", "out")
#: fields of a host's recipes that name data
DATA = ("data.paths", "data.dataset_root", "dataset.data_path", "dataset.dataset_root")
_OVERRIDE = re.compile(r"([^=]+?)([*+|/-]?=)(.*)", re.DOTALL)


@dataclass
class RunFile:
    """Parts of a run.

    Attributes:
        recipe: the file's fields that are the recipe's.
        settings: those of `SETTINGS` that were given, with the overrides in them.
        overrides: overrides that are the recipe's, as they were written.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in TEXT:
            if not isinstance(self.settings.get(name, ""), (str, type(None))):
                raise bad(name, self.settings[name], "a path")
        if not isinstance(self.recipe.get("run", {}), dict):  # NeMo-Run's own
            raise bad("run", self.recipe["run"], "a mapping such as {factory: NAME}")

    @classmethod
    def load(cls, path: str | None) -> RunFile:
        """Read a YAML, JSON or TOML file; one that is an elastic block alone serves too."""
        if path is None:
            return cls()
        data = read_mapping("--yaml", path)
        # a recipe has a field `data`, too
        if set(data) - {"data"} and "elastic" not in data and set(data) <= {f.name for f in fields(ElasticConfig)}:
            return cls(settings={"elastic": data})
        given = {k: v for k, v in data.items() if k in SETTINGS}
        return cls({k: v for k, v in data.items() if k not in SETTINGS}, given)

    def override(self, args: Sequence[str]) -> RunFile:
        """The same with `key=value` overrides: ours are put in place, the recipe's are kept for NeMo-Run.

        `elastic.search.tokens=4096`, `elastic.budgets[1].ratio=0.5`, `elastic.budgets=[{name: small, ratio: 0.5}]`,
        `elastic=@elastic.yaml`, `teacher=PATH`; values are YAML.
        """
        ours = OmegaConf.create(self.settings)
        rest = []
        for arg in args:
            match = _OVERRIDE.fullmatch(arg)
            if match is None:
                raise bad("override", arg, "field=value")
            key, operator, text = match.groups()
            root = re.split(r"[.\[]", key, maxsplit=1)[0]
            if root not in SETTINGS:
                rest.append(arg)
                continue
            if operator != "=":
                raise bad(key, operator, f"only `=` changes it: {key}=VALUE")
            if key == "elastic" and text.startswith("@"):
                data = read_mapping(key, text[1:])
                value = data.get("elastic", data)
            else:
                value = value_of(key, text)
            try:
                OmegaConf.update(ours, key, value, merge=False)
            except Exception as error:  # OmegaConf's errors share no base class with Python's that it lets through
                raise ElasticError(f"{key}: cannot be set to {text} ({str(error).splitlines()[0]})") from None
        try:
            plain = resolved(ours)
        except Exception as error:  # as above
            raise ElasticError(f"elastic: cannot be read ({str(error).splitlines()[0]})") from None
        assert isinstance(plain, dict)
        return RunFile(dict(self.recipe), {str(k): v for k, v in plain.items()}, [*self.overrides, *rest])

    def check_here(self) -> None:
        """Hold a run that starts on this machine against its files, before its host is imported.

        Raises:
            ElasticError: teacher, previous checkpoint or data are not there, or block and teacher do not fit.
        """
        from nemo_elastic.formats.megatron.stored import read_shapes
        from nemo_elastic.hosts.common.checkpoints import newest_of
        from nemo_elastic.search import check_block

        given = {name: self.settings.get(name) for name in ("teacher", "previous")} | self._data()
        for name, value in given.items():
            for path in files_of(value):
                if not is_there(path):
                    raise bad(name, path, "a path on this machine, where the run starts")
        block, teacher = self.settings.get("elastic"), newest_of(given["teacher"])
        if teacher is None or block is None:
            return
        try:
            parent = read_shapes(teacher).parent
        except ElasticError as error:
            raise error.of("teacher") from None
        check_block(ElasticConfig.of(block), parent)

    def _data(self) -> dict[str, Any]:
        """Fields of the recipe that name data."""
        held = {
            f"{section}.{name}": value
            for section, fields_ in self.recipe.items()
            if isinstance(fields_, dict)
            for name, value in fields_.items()
        }
        given = [(name, text) for name, _, text in (override.partition("=") for override in self.overrides)]
        held |= {name: value_of(name, text) for name, text in given if name in DATA}
        return {name: held[name] for name in DATA if name in held}

    def apply(self, recipe: Any, apply_elastic: Callable[..., Any]) -> Any:
        """A host's `apply_elastic` with these settings.

        Raises:
            ElasticError: no block was given, or `apply_elastic` refuses it.
        """
        if self.settings.get("elastic") is None:
            raise bad("elastic", None, "a block: `elastic:` in the --yaml file, or elastic=@elastic.yaml")
        return apply_elastic(recipe, **self.settings)


def read_mapping(name: str, path: str) -> dict[str, Any]:
    """A YAML, JSON or TOML file that is a mapping; numbers such as 3e-3 are numbers."""
    if not Path(path).is_file():
        raise bad(name, path, "an existing YAML file")
    try:
        if Path(path).suffix == ".toml":
            data = resolved(_toml(path))
        else:
            data = read_yaml(path)
    except Exception as error:  # YAML, TOML and OmegaConf errors share no base class
        raise ElasticError(f"{name}: {path} is not readable ({str(error).splitlines()[0]})") from None
    if not isinstance(data, dict):
        raise bad(name, path, "a file with a mapping such as `elastic: {budgets: …}`")
    return {str(k): v for k, v in data.items()}


def _toml(path: str) -> dict[str, Any]:
    from nemo_run.cli.config import toml_to_yaml, yaml_to_dict

    return yaml_to_dict(toml_to_yaml(read_text(path)))


def value_of(key: str, text: str) -> Any:
    """What an override's text means: YAML, but for `TEXT`."""
    if key in TEXT:
        return None if text in ("null", "None", "") else text
    try:
        value = resolved(f"value: {text}")["value"]
    except Exception as error:  # PyYAML's errors
        raise ElasticError(f"{key}: {text} is not readable as YAML ({str(error).splitlines()[0]})") from None
    return None if value == "None" else value
