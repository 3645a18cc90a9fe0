# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's `io.json` read as data: a graph of fiddle configs, of which nothing is built and no pickle is opened."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.read import read_json

_KEY = re.compile(r"(?:Attr\(name|Key\(key|Index\(index)=(.*)\)")
_BEGUN = object()
#: modules of the classes whose defaults are looked up; no other is imported, whatever the file names. The last is
#: the name that the second had in version 0.1
_MODULES = ("nemo.collections.llm.gpt.model.ssm", "nemo_elastic.hosts.nemo.tiny.model", "nemo_elastic.nemo.tiny")


def read_io_json(file: Path, path: str) -> dict[str, Any]:
    """Read one config of an `io.json`, with the defaults of its fields where its class is NeMo's or ours.

    Args:
        file: the file.
        path: of the config below the root, e.g. `model.config`.

    Returns:
        Field -> value. A config in it is such a mapping too; what is no plain data is None.

    Raises:
        ElasticError: the file is no such graph.
    """
    data = read_json(file)
    try:
        objects = data["objects"]
        key = next(k for k, o in objects.items() if f"<root>.{path}" in (o.get("paths") or ()))
        value = _object(objects, key, {})
    except StopIteration:
        raise ElasticError(f"{file}: says nothing of {path}") from None
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as exc:
        raise ElasticError(f"{file}: not what NeMo writes ({type(exc).__name__}: {exc})") from None
    return value if isinstance(value, dict) else {}


def _object(objects: Mapping[str, Any], key: str, known: dict[str, Any]) -> Any:
    """An object of the graph; `known` has those that were read, as each may be held by many, and those begun."""
    if key in known:
        if known[key] is _BEGUN:
            raise ValueError(f"{key} holds itself")
        return known[key]
    known[key] = _BEGUN
    told = objects[key]
    items: dict[Any, Any] = {}
    for name, value in told["items"]:
        match = _KEY.fullmatch(name)
        if match is None:
            raise ValueError(name)
        items[ast.literal_eval(match[1])] = _value(objects, value, known)
    kind = told["type"]["name"]
    if kind in ("list", "tuple"):
        known[key] = list(items.values())
    else:
        known[key] = _defaults(objects, told) | items if kind == "Config" else items
    return known[key]


def _value(objects: Mapping[str, Any], value: Mapping[str, Any], known: dict[str, Any]) -> Any:
    if value["type"] == "leaf":
        return value["value"]
    return _object(objects, value["key"], known) if value["type"] == "ref" else None


def _defaults(objects: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of a dataclass that a config is of, as far as they are plain values."""
    about = dict(objects[told["metadata"]["key"]]["items"]).get("Attr(name='fn_or_cls')", {})
    module, name = about.get("module", ""), about.get("name", "")
    if module not in _MODULES:
        return {}
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception:  # of another release, or no module at all: a module may raise anything
        return {}
    fields = dataclasses.fields(found) if isinstance(found, type) and dataclasses.is_dataclass(found) else ()
    return {f.name: f.default for f in fields if isinstance(f.default, (bool, int, float, str, type(None)))}
