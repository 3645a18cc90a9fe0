# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the `elastic:` block, made from its dataclasses. Editors read it: `conf/elastic.schema.json`.

Names, types, defaults and descriptions come from the dataclasses and the Attributes of their docstrings. A schema sees
one value at a time: what holds between values (order of budgets, choices against the parent) `ElasticConfig` checks.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from nemo_elastic.config.block import WAYS, ElasticConfig
from nemo_elastic.config.losses import TERMS
from nemo_elastic.config.sections import (
    APART,
    DISTILL_MODES,
    GATES,
    JOINED,
    NONFINITE,
    TEACHER_PRECISIONS,
    TEACHERS,
    DataConfig,
    DistillConfig,
    HalvingConfig,
    ImportanceConfig,
    NonfiniteConfig,
    RouterConfig,
    SearchConfig,
)
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.cost import DTYPE_BYTES, MemorySpec
from nemo_elastic.core.kinds.registry import DEPTH, all_axes, per_layer_axes, striped_axes
from nemo_elastic.core.latency import DECODE, PHASES, REQUEST
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.io.values import UNITS

__all__ = ["REQUIRED", "SECTIONS", "WORDS", "attributes", "default_of", "json_schema", "summary"]

#: sections in the order in which the documentation shows them
SECTIONS: tuple[type, ...] = (
    ElasticConfig, Budget, MemorySpec, AxisConfig, ImportanceConfig, SearchConfig, HalvingConfig,
    RouterConfig, DistillConfig, DataConfig, NonfiniteConfig,
)  # fmt: skip
#: the words that a text field takes, where they are few
WORDS: dict[tuple[type, str], tuple[str, ...]] = {
    (RouterConfig, "gate"): GATES,
    (DistillConfig, "teacher"): TEACHERS,
    (DistillConfig, "mode"): tuple(DISTILL_MODES),
    (DistillConfig, "teacher_precision"): TEACHER_PRECISIONS,
    (DistillConfig, "quantize"): SCHEMES,
    (DataConfig, "documents"): (JOINED, APART),
    (NonfiniteConfig, "action"): NONFINITE,
    (ImportanceConfig, "ffn"): ("activation", "first"),
    (ImportanceConfig, "aggregation"): ("l2_mean", "mean"),
    (ImportanceConfig, "experts"): ("mean", "l2"),
    (ImportanceConfig, "depth"): ("mse", "cosine"),
    (MemorySpec, "weights"): tuple(DTYPE_BYTES),
    (MemorySpec, "cache"): tuple(DTYPE_BYTES),
    (MemorySpec, "state"): tuple(DTYPE_BYTES),
}
#: fields with an empty default that a block must fill all the same
REQUIRED = {(ElasticConfig, "budgets"), (ElasticConfig, "axes")}
_CHOICES = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "uniqueItems": True}


def json_schema() -> dict[str, Any]:
    """Schema of a YAML file with an `elastic:` key; other keys are the recipe's and anything goes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nemo-elastic",
        "description": "A run file of nemo-elastic, or one that holds its `elastic:` block beside overrides.",
        "type": "object",
        "properties": {"elastic": _object(ElasticConfig)},
        "required": ["elastic"],
    }


def summary(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


@lru_cache
def attributes(cls: type) -> Mapping[str, str]:
    """Field -> what the Attributes of a dataclass's docstring say of it, on one line each.

    An entry is `name: text`, continued on deeper lines; a line may hold several, divided by semicolons.

    Raises:
        ValueError: a field is not described: it would be missing in the documentation.
    """
    names = [f.name for f in fields(cls)]
    _, _, block = (cls.__doc__ or "").partition("Attributes:\n")
    text = " ".join(block.split("\n\n")[0].split())
    starts = [m for m in re.finditer(r"(?:^|(?<=[.;:] ))(\w+): ", text) if m[1] in names]
    out = {}
    for here, after in zip(starts, [*starts[1:], None], strict=True):
        out[here[1]] = text[here.end() : after.start() if after else None].strip().rstrip(";.")
    missing = [n for n in names if n not in out]
    if missing:
        raise ValueError(f"{cls.__name__}: no Attributes entry for {', '.join(missing)}")
    return out


def default_of(field: Field) -> Any:
    """A field's default as a JSON value; `MISSING` where it must be given."""
    value = field.default if field.default is not MISSING else MISSING
    if field.default_factory is not MISSING:
        value = field.default_factory()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _object(cls: type) -> dict[str, Any]:
    """Schema of a dataclass: its fields and no others."""
    hints, words = get_type_hints(cls), attributes(cls)
    properties, required = {}, []
    for f in fields(cls):
        schema = _special(cls, f.name) or _type(hints[f.name])
        if (cls, f.name) in WORDS:
            null = [None] if "anyOf" in schema else []
            schema = schema | {"enum": [*WORDS[cls, f.name], *null]}
        schema = schema | {"description": words[f.name]}
        default = default_of(f)
        if default is MISSING or (cls, f.name) in REQUIRED:
            required.append(f.name)
        elif default not in ([], {}):
            schema["default"] = default
        properties[f.name] = schema
    out = {"type": "object", "description": summary(cls), "properties": properties, "additionalProperties": False}
    return out | ({"required": required} if required else {})


def _type(hint: Any) -> dict[str, Any]:
    """Schema of an annotation."""
    plain = {int: "integer", float: "number", str: "string", bool: "boolean"}
    if hint in plain:
        return {"type": plain[hint]}
    if get_origin(hint) in (Union, types.UnionType):
        first, *rest = (a for a in get_args(hint) if a is not type(None))
        assert not rest, hint
        return {"anyOf": [_type(first), {"type": "null"}]}
    if get_origin(hint) is tuple:
        item, *rest = get_args(hint)
        count = {} if rest == [Ellipsis] else {"minItems": 1 + len(rest), "maxItems": 1 + len(rest)}
        return {"type": "array", "items": _type(item)} | count
    assert is_dataclass(hint) and isinstance(hint, type), hint
    return _object(hint)


def _special(cls: type, name: str) -> dict[str, Any] | None:
    """What an annotation does not tell: keys of mappings, words beside paths, how many there may be."""
    if (cls, name) == (ElasticConfig, "shapes"):
        return {"anyOf": [{"enum": list(WAYS)}, {"type": "string", "pattern": r"\.json$"}]}
    if (cls, name) == (HalvingConfig, "cuts"):
        return {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 1, "maxItems": 3}
    if (cls, name) == (ElasticConfig, "axes"):
        return {
            "type": "object",
            "properties": {axis: _axis(axis) for axis in all_axes()},
            "additionalProperties": False,
            "minProperties": 1,
        }
    if (cls, name) == (ElasticConfig, "sampling"):
        return {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
    if cls is Budget and name in ("params", "active_params"):
        text = {"type": "string", "pattern": "^[0-9.]+([eE][+]?[0-9]+)?[KMBTkmbt]?$"}
        return {"anyOf": [{"type": "number", "minimum": 1}, text, {"type": "null"}]}
    if (cls, name) == (Budget, "memory"):
        schema = _object(MemorySpec)
        unit = "|".join(sorted(UNITS, key=len, reverse=True))
        text = {"type": "string", "pattern": f"^[0-9.]+({unit})$"}
        size = {"anyOf": [{"type": "integer", "minimum": 1}, text], "description": "bytes in service, e.g. 18GiB"}
        schema |= {"properties": {"size": size} | schema["properties"], "required": ["size"]}
        return {"anyOf": [schema, {"type": "null"}]}
    if (cls, name) == (Budget, "latency"):
        amounts = {
            "table": {"type": ["string", "object"], "description": "file of `nemo-elastic profile`"},
            "ms": {"type": "number", "exclusiveMinimum": 0, "description": "milliseconds"},
            "ratio": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "of the parent's"},
            "of": {"enum": [*PHASES, REQUEST], "default": DECODE, "description": "what takes that"},
        }
        schema = {"type": "object", "properties": amounts, "required": ["table"], "additionalProperties": False}
        one = [{"required": ["ms"]}, {"required": ["ratio"]}]
        return {"anyOf": [schema | {"oneOf": one}, {"type": "null"}]}
    if (cls, name) == (DistillConfig, "terms"):
        return _terms()
    return None


def _terms() -> dict[str, Any]:
    weight = {"type": "number", "minimum": 0}
    schema = {"type": "object", "properties": dict.fromkeys(TERMS, weight), "additionalProperties": False}
    return {"anyOf": [schema | {"minProperties": 1}, {"type": "null"}]}


def _axis(name: str) -> dict[str, Any]:
    """An axis: its choices alone, or with settings that not every axis has."""
    whole = _object(AxisConfig)
    settings = {"choices": whole["properties"]["choices"] | _CHOICES}
    one = {} if name in per_layer_axes() else {"const": False}
    settings["per_layer"] = whole["properties"]["per_layer"] | one
    for axes, setting in ((striped_axes(), "stripes"), ((DEPTH,), "keep_attention")):
        if name in axes:
            settings[setting] = whole["properties"][setting]
    return {"anyOf": [_CHOICES, whole | {"properties": settings}]}
