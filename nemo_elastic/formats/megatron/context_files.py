# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says beside the weights: settings, elastic block, tokenizer.

NeMo's has a folder `context/` for it, Megatron-Bridge's a file `run_config.yaml` among the weights.

No model is built, and nothing is unpickled. `model.yaml` has every setting; where it is absent, `io.json` has those
that were given, and the config's class the rest: a graph of fiddle configs, of which nothing is built.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import find_tokenizer
from nemo_elastic.io.read import read_json, read_plain_yaml, read_text

from .metadata import RUN_CONFIG, last_iteration

#: settings of a tokenizer that name its files
_TOKENIZER_PATHS = ("pretrained_model_name", "pretrained_model_name_or_path", "model_path", "vocab_file")
_KEY = re.compile(r"(?:Attr\(name|Key\(key|Index\(index)=(.*)\)")
_BEGUN = object()
#: modules of the classes whose defaults are looked up; no other is imported, whatever the file names
_MODULES = ("nemo.collections.llm.gpt.model.ssm", "nemo_elastic.hosts.nemo.tiny.recipe")
_SPECIAL = ("bos_token", "eos_token", "pad_token")


@dataclass(frozen=True)
class Context:
    """The context of a checkpoint.

    Attributes:
        file: what was read, for errors.
        settings: fields of the model's config; values that are no plain data are absent or mappings with `_target_`.
        elastic: the elastic block that it was trained with.
        tokenizer: folder with a Hugging Face tokenizer, if it has one.
    """

    file: Path
    settings: Mapping[str, Any]
    elastic: Mapping[str, Any] | None
    tokenizer: Path | None


def read_context(checkpoint: Path) -> Context:
    """Read the context of a checkpoint.

    Raises:
        ElasticError: there is none, or it does not describe a model.
    """
    folder = checkpoint / "context"
    file = folder / "model.yaml"
    iteration = last_iteration(checkpoint)
    if iteration is not None:
        folder, file = iteration, iteration / RUN_CONFIG
        whole = _read_yaml(file)
        provider = whole.get("optimizer_config_override_provider")
        model = {
            "config": whole.get("model"),
            "elastic": provider.get("elastic") if isinstance(provider, Mapping) else None,
        }
    elif file.is_file():
        model = _read_yaml(file)
    elif (folder / "io.json").is_file():
        file = folder / "io.json"
        model = read_io_json(file, "model")
    else:
        raise ElasticError(f"{checkpoint}: has no context/model.yaml; weights alone do not tell the groups of heads")
    settings, elastic = model.get("config"), model.get("elastic")
    if not isinstance(settings, Mapping) or not settings:
        raise ElasticError(f"{file}: says nothing of a model's config")
    if elastic is not None and not isinstance(elastic, Mapping):
        raise bad(f"{file}: elastic", elastic, "the elastic block that it was trained with")
    return Context(file, settings, elastic, _tokenizer(folder, model.get("tokenizer")))


def _read_yaml(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        model = read_plain_yaml(file)
    except ElasticError:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ElasticError(f"{file}: cannot be read ({' '.join(str(exc).split())})") from None
    if not isinstance(model, Mapping):
        raise ElasticError(f"{file}: says nothing of a model's config")
    return model


def _tokenizer(folder: Path, settings: Any) -> Path | None:
    """Folder of the tokenizer's files, inside the context: NeMo copies them there and names them from there."""
    named = [settings.get(key) for key in _TOKENIZER_PATHS] if isinstance(settings, Mapping) else []
    for name in [*(n for n in named if isinstance(n, str)), "tokenizer", "."]:
        try:
            place = (folder / name).resolve()
            place = place.parent if place.is_file() else place
        except (OSError, ValueError, RuntimeError):  # no name that a file can have
            continue
        if place.is_relative_to(folder.resolve()) and find_tokenizer(place):
            return place
    return None


def token_ids(tokenizer: Path | None) -> dict[str, int]:
    """Ids of the special tokens, as fields of `config.json`, as far as the tokenizer's files name them.

    Args:
        tokenizer: folder with a Hugging Face tokenizer.
    """
    if tokenizer is None:
        return {}
    config, whole = _read_object(tokenizer / "tokenizer_config.json"), _read_object(tokenizer / "tokenizer.json")
    model, added, decoder = (
        _mapping(whole, "model"),
        whole.get("added_tokens"),
        _mapping(config, "added_tokens_decoder"),
    )
    ids: dict[Any, Any] = _mapping(model, "vocab")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, Mapping) and isinstance(token.get("content"), str):
            ids[token["content"]] = token.get("id")
    for number, token in decoder.items():
        if isinstance(token, Mapping) and isinstance(token.get("content"), str) and re.fullmatch("[0-9]{1,9}", number):
            ids[token["content"]] = int(number)
    special = {}
    for key in _SPECIAL:
        token = config.get(key)
        token = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(token, str) and isinstance(ids.get(token), int):
            special[f"{key}_id"] = ids[token]
    return special


def _mapping(owner: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = owner.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):  # an ElasticError is a ValueError
        return {}
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------ io.json


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
    record = objects[key]
    items: dict[Any, Any] = {}
    for name, value in record["items"]:
        match = _KEY.fullmatch(name)
        if match is None:
            raise ValueError(name)
        items[ast.literal_eval(match[1])] = _value(objects, value, known)
    kind = record["type"]["name"]
    if kind in ("list", "tuple"):
        known[key] = list(items.values())
    else:
        known[key] = _defaults(objects, record) | items if kind == "Config" else items
    return known[key]


def _value(objects: Mapping[str, Any], value: Mapping[str, Any], known: dict[str, Any]) -> Any:
    if value["type"] == "leaf":
        return value["value"]
    return _object(objects, value["key"], known) if value["type"] == "ref" else None


def _defaults(objects: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of a dataclass that a config is of, as far as they are plain values."""
    about = dict(objects[record["metadata"]["key"]]["items"]).get("Attr(name='fn_or_cls')", {})
    module, name = about.get("module", ""), about.get("name", "")
    if module not in _MODULES:
        return {}
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except Exception:  # of another release, or no module at all: a module may raise anything
        return {}
    fields = dataclasses.fields(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else ()
    return {f.name: f.default for f in fields if isinstance(f.default, (bool, int, float, str, type(None)))}
