# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files of a checkpoint other than weights: settings, elastic block, tokenizer.

NeMo has a folder `context/` for them, Megatron-Bridge a file `run_config.yaml` among the weights.

No model is built, and nothing is unpickled. `model.yaml` has every setting. Without it, `io.json` has the settings
that were given, as a graph of fiddle configs that are not built, and the config's class has the rest.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.limits import check_content
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import find_tokenizer
from nemo_elastic.io.read import json_object, read_json, read_plain_yaml

from .metadata import RUN_CONFIG, last_iteration

#: settings of a tokenizer that name its files
_TOKENIZER_PATHS = ("pretrained_model_name", "pretrained_model_name_or_path", "model_path", "vocab_file")
_KEY = re.compile(r"(?:Attr\(name|Key\(key|Index\(index)=(.*)\)")
_BEGUN = object()
#: modules of the classes whose defaults are looked up; no other is imported, whatever the file names
_MODULES = ("nemo.collections.llm.gpt.model.ssm", "nemo_elastic.hosts.nemo.tiny.recipe")


@dataclass(frozen=True)
class Context:
    """The context of a checkpoint.

    Attributes:
        file: what was read, for errors.
        settings: fields of the model's config; values that are no plain data are absent or mappings with `_target_`.
        elastic: the elastic block that it was trained with.
        steps: of a family: optimizer steps of the stages before the one in which it was saved, and of that one.
        tokenizer: folder with a Hugging Face tokenizer, if it has one.
    """

    file: Path
    settings: Mapping[str, Any]
    elastic: Mapping[str, Any] | None
    steps: tuple[Any, Any]
    tokenizer: Path | None


def read_context(checkpoint: Path) -> Context:
    """Read the context of a checkpoint; refuse a checkpoint without one, or one that does not describe a model."""
    folder, iteration = checkpoint / "context", last_iteration(checkpoint)
    if iteration is not None:
        folder, file = iteration, iteration / RUN_CONFIG
        whole = _read_yaml(file)
        provider = _mapping(whole, "optimizer_config_override_provider")
        model = {"config": whole.get("model"), "stage_steps": _mapping(whole, "train").get("train_iters")}
        model |= {name: provider.get(name) for name in ("elastic", "done_steps")}
    elif (file := folder / "model.yaml").is_file():
        model = _read_yaml(file)
    elif (file := folder / "io.json").is_file():
        model = read_io_json(file, "model")
    else:
        raise ElasticError(
            f"{checkpoint}: has no context/model.yaml; the weights alone do not give the groups of heads"
        )
    settings, elastic = _mapping(model, "config"), model.get("elastic")
    if not settings:
        raise ElasticError(f"{file}: has no config of a model")
    if elastic is not None and not isinstance(elastic, Mapping):
        raise bad(f"{file}: elastic", elastic, "the elastic block that it was trained with")
    check_content((elastic or {}).get("budgets"), f"{file}: elastic.budgets")
    steps = model.get("done_steps"), model.get("stage_steps")
    return Context(file, settings, elastic, steps, _tokenizer(folder, _mapping(model, "tokenizer")))


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        model = read_plain_yaml(file)
    except ElasticError:
        raise
    except (OSError, ValueError, RecursionError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise ElasticError(f"{file}: cannot be read ({why})") from None
    if not isinstance(model, Mapping):
        raise ElasticError(f"{file}: has no config of a model")
    return model


def _tokenizer(folder: Path, settings: Mapping[str, Any]) -> Path | None:
    """Folder of the tokenizer's files, inside the context: NeMo copies them there and names them from there."""
    named = [settings.get(key) for key in _TOKENIZER_PATHS]
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
    """Ids of the special tokens, as fields of `config.json`, as far as the tokenizer's files name them."""
    if tokenizer is None:
        return {}
    config, whole = json_object(tokenizer / "tokenizer_config.json"), json_object(tokenizer / "tokenizer.json")
    added, decoder = whole.get("added_tokens"), _mapping(config, "added_tokens_decoder")
    tokens = [(t, t.get("id")) for t in (added if isinstance(added, list) else []) if isinstance(t, Mapping)]
    tokens += [(t, int(n)) for n, t in decoder.items() if isinstance(t, Mapping) and re.fullmatch("[0-9]{1,9}", n)]
    ids = {**_mapping(_mapping(whole, "model"), "vocab")}
    ids |= {t["content"]: number for t, number in tokens if isinstance(t.get("content"), str)}
    special = {}
    for key in ("bos_token", "eos_token", "pad_token"):
        token = _mapping(config, key).get("content", config.get(key))
        if isinstance(token, str) and isinstance(ids.get(token), int):
            special[f"{key}_id"] = ids[token]
    return special


def _mapping(owner: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping inside another; empty if it is missing."""
    value = owner.get(key)
    return value if isinstance(value, Mapping) else {}


# ------------------------------------------------------------------ io.json


def read_io_json(file: Path, path: str) -> dict[str, Any]:
    """Settings of the config at `<root>.path` of an `io.json`, such as `model.config`; nested configs are dicts.

    A missing field has its class's default where the class is in `_MODULES` and the default is a plain value. Other
    objects are None.
    """
    data = read_json(file)
    try:
        objects = data["objects"]
        key = next((k for k, o in objects.items() if f"<root>.{path}" in (o.get("paths") or ())), None)
        value = None if key is None else _object(objects, key, {})
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as exc:
        raise ElasticError(f"{file}: is not a file that NeMo writes ({type(exc).__name__}: {exc})") from None
    if key is None:
        raise ElasticError(f"{file}: has no object {path}")
    return value if isinstance(value, dict) else {}


def _object(objects: Mapping[str, Any], key: str, known: dict[str, Any]) -> Any:
    """An object of the graph; `known`: objects read or begun, as several may share one."""
    if known.get(key) is _BEGUN:
        raise ValueError(f"{key} contains itself")
    if key in known:
        return known[key]
    known[key] = _BEGUN
    record = objects[key]
    items: dict[Any, Any] = {}
    for name, entry in record["items"]:
        match = _KEY.fullmatch(name)
        if match is None:
            raise ValueError(name)
        value = entry["value"] if entry["type"] == "leaf" else None
        items[ast.literal_eval(match[1])] = _object(objects, entry["key"], known) if entry["type"] == "ref" else value
    kind = record["type"]["name"]
    if kind == "Config":
        items = _defaults(objects, record) | items
    known[key] = list(items.values()) if kind in ("list", "tuple") else items
    return known[key]


def _defaults(objects: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of a dataclass that a config is of, as far as they are plain values."""
    about = dict(objects[record["metadata"]["key"]]["items"]).get("Attr(name='fn_or_cls')", {})
    if about.get("module") not in _MODULES:
        return {}
    try:
        kind = getattr(importlib.import_module(about["module"]), about.get("name", ""), None)
    except Exception:  # of another release, or no module at all: a module may raise anything
        return {}
    fields = dataclasses.fields(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else ()
    return {f.name: f.default for f in fields if isinstance(f.default, (bool, int, float, str, type(None)))}
