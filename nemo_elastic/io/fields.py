# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Fields of dataclasses: read from files, checked, and described as JSON schema, all by their annotations.

    samples: Annotated[int, Between(1)] = 1024
    gate: Annotated[str, OneOf(("soft", "hard"))] = "soft"
    tau: Annotated[tuple[float, float], Length(said="two numbers: at the start and at freeze_at")] = (1.0, 0.05)

`read` makes a dataclass from a mapping. A dataclass that users build by hand calls `check` in its `__post_init__`.
Every mistake is one line with the dotted field, the value and what is allowed.
"""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from nemo_elastic.errors import ElasticError, bad, did_you_mean, shown
from nemo_elastic.io.values import MOST, plain

_T = TypeVar("_T")
#: longest name of a record that stands for its number in a field's name
_NAME = 64


@dataclass(frozen=True, eq=False)
class Value:
    """Reader and schema of a field's values. Use it in an annotation for values that need a custom function.

    Attributes:
        read: what was given and the field's name -> the value as the field keeps it.
        schema: JSON schema of what may be given.
    """

    read: Callable[[Any, str], Any]
    schema: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True, eq=False)
class Between:
    """Bounds of a number, both allowed; `said` replaces the words of an error."""

    low: float | None = None
    high: float | None = None
    said: str = ""


@dataclass(frozen=True, eq=False)
class OneOf:
    """The words that a text may be, or the keys that a mapping may have; a registry may grow later."""

    words: Collection[str]


@dataclass(frozen=True, eq=False)
class Length:
    """How many entries a list has; `said` replaces the words of an error."""

    low: int = 0
    high: int | None = None
    said: str = ""


def known_names(names: Sequence[str], data: Any, field: str) -> dict[str, Any]:
    """`data` as a dictionary: a mapping without other keys than `names`."""
    listed, at = ", ".join(names), (field,) if field else ()
    if not isinstance(data, Mapping):
        raise ElasticError(f"{shown(data)} is not allowed; a mapping with {listed}", *at)
    for key in data:
        if key not in names:
            hint = did_you_mean(key, names) if isinstance(key, str) else ""
            raise ElasticError(f"unknown field {shown(key)}{hint} (allowed: {listed})", *at)
    return dict(data)


def known_fields(cls: type, data: Any, field: str) -> dict[str, Any]:
    """`data` as keyword arguments of dataclass `cls`: a mapping without unknown and with all mandatory fields."""
    known = known_names([f.name for f in fields(cls) if f.init], data, field)
    for f in fields(cls):
        if f.init and f.default is MISSING and f.default_factory is MISSING and f.name not in data:
            raise ElasticError(f"{_at(field, f.name)}: missing")
    return known


def check_version(data: Any, version: int, field: str = "version") -> None:
    """Raise for a file of another version before its fields are read, which that version may have changed."""
    if not isinstance(data, Mapping):
        raise ElasticError(f"{shown(data)} is not allowed; a mapping")
    if field not in data:
        raise ElasticError("missing", field)
    found = data[field]
    if isinstance(found, bool) or found != version:
        raise bad(field, found, f"this nemo-elastic reads version {version}")


def read(cls: type[_T], data: Any, field: str) -> _T:
    """A dataclass from a mapping, or as it is."""
    return value_of(cls).read(data, field)


def check(record: Any, field: str) -> None:
    """Let a dataclass hold its values as the annotations say; raise for one that they do not allow."""
    for name, value in values_of(type(record)).items():
        object.__setattr__(record, name, value.read(getattr(record, name), _at(field, name)))


@lru_cache
def values_of(cls: type) -> Mapping[str, Value]:
    """Field -> its reader and schema."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: value_of(hints[f.name]) for f in fields(cls) if f.init}


def value_of(hint: Any, null: bool = False) -> Value:
    """Reader and schema of an annotation; a union with None also accepts null."""
    base, rule = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    origin, inner = get_origin(base), get_args(base)
    if isinstance(rule, Value):
        return rule
    if origin in (Union, types.UnionType):
        first, *rest = (each for each in inner if each is not type(None))
        assert not rest, hint
        return _optional(value_of(first, null=True))
    if base in (int, float):
        return _number(base is int, rule or Between())
    if origin is tuple:
        return _list(inner, rule or Length())
    if origin is Mapping:
        return _mapping(inner[1], rule)
    if isinstance(rule, OneOf):
        return _word(rule, null)
    return _record(base) if is_dataclass(base) else _PLAIN[base]


def fitting(
    fits: Callable[[Any], Any], allowed: str, schema: dict[str, Any], keep: Callable[[Any], Any] = lambda given: given
) -> Value:
    """Convert and validate a value; the error line says what is allowed."""

    def read(given: Any, field: str) -> Any:
        value = keep(given)
        if not fits(value):
            raise bad(field, given, allowed)
        return value

    return Value(read, lambda: schema)


_TEXT, _BOOL = {"type": "string"}, {"type": "boolean"}
_PLAIN = {
    Any: Value(lambda given, field: given),
    str: fitting(lambda given: isinstance(given, str), "a text", _TEXT),
    bool: fitting(lambda given: isinstance(given, bool), "true or false", _BOOL),
    Path: fitting(lambda given: isinstance(given, Path), "a path", _TEXT),
}
TEXT = fitting(lambda given: isinstance(given, str) and given != "", "a text that is not empty", _TEXT)


def of_path(given: Any) -> Any:
    """A path as its text."""
    return str(given) if isinstance(given, Path) else given


#: a path, kept as a text
PATH = fitting(lambda own: isinstance(own, str), "a path", _TEXT, of_path)


def _optional(value: Value) -> Value:
    def schema() -> dict[str, Any]:
        inner = value.schema()
        return {"anyOf": [*inner.get("anyOf", [inner]), {"type": "null"}]}

    return Value(lambda given, field: None if given is None else value.read(given, field), schema)


def _number(whole: bool, rule: Between) -> Value:
    low, high = rule.low, rule.high
    largest = MOST if whole else sys.float_info.max
    least, most = -largest if low is None else low, largest if high is None else high
    allowed = "a whole number" if whole else "a number"
    if low is not None or high is not None:
        allowed = f"at most {high}" if low is None else f"at least {low}" if high is None else f"from {low} to {high}"

    def read(given: Any, field: str) -> Any:
        value = plain(given)
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if right and high is None and most < value < math.inf:
            raise bad(field, given, "a number of 64 bits")
        if not right or not least <= value <= most:
            raise bad(field, given, rule.said or allowed)
        return value

    bounds = {name: bound for name, bound in (("minimum", low), ("maximum", high)) if bound is not None}
    return Value(read, lambda: {"type": "integer" if whole else "number"} | bounds)


def _word(rule: OneOf, null: bool) -> Value:
    allowed = f"{'null or ' if null else ''}one of {', '.join(rule.words)}"
    schema = {"type": "string", "enum": list(rule.words)}
    return fitting(lambda given: isinstance(given, str) and given in rule.words, allowed, schema)


def _list(items: tuple[Any, ...], rule: Length) -> Value:
    """A list is kept as a tuple. Only records among its items have a number, or their name, in errors."""
    count = None if items[-1] is Ellipsis else len(items)
    low, high = (rule.low, rule.high) if count is None else (count, count)
    item, records = value_of(items[0]), is_dataclass(items[0])
    entries = "" if not low and high is None else f" of {low}" if low == high else f" of at least {low}"
    allowed = rule.said or f"a list{entries}"

    def read(given: Any, field: str) -> Any:
        if not isinstance(given, (list, tuple)) or len(given) < low or (high is not None and len(given) > high):
            raise bad(field, given, allowed)
        return tuple(item.read(each, _entry(field, i, each) if records else field) for i, each in enumerate(given))

    def schema() -> dict[str, Any]:
        least, most = {"minItems": low} if low else {}, {} if high is None else {"maxItems": high}
        return {"type": "array", "items": item.schema()} | least | most

    return Value(read, schema)


def _mapping(entry: Any, rule: OneOf | None) -> Value:
    value, keys = value_of(entry), None if rule is None else rule.words

    def read(given: Any, field: str) -> Any:
        known = given if keys is None else known_names(tuple(keys), given, field)
        if not isinstance(known, Mapping) or (keys is not None and not known):
            raise bad(field, given, "a mapping" if keys is None else f"at least one of {', '.join(keys)}")
        return {name: value.read(each, f"{field}.{name}") for name, each in known.items()}

    def schema() -> dict[str, Any]:
        if keys is None:
            return {"type": "object", "additionalProperties": value.schema()}
        words = {"type": "object", "properties": {name: value.schema() for name in keys}}
        return words | {"additionalProperties": False, "minProperties": 1}

    return Value(read, schema)


def _record(cls: Any) -> Value:
    def read(given: Any, field: str) -> Any:
        if isinstance(given, cls):
            return given
        known, values = known_fields(cls, given, field), values_of(cls)
        return cls(**{name: values[name].read(each, _at(field, name)) for name, each in known.items()})

    return Value(read, lambda: schema_of(cls))


def kept(cls: type) -> Value:
    """A mapping that reads as a dataclass, kept as a mapping of what was given."""

    def read(given: Any, field: str) -> Any:
        made = value_of(cls).read(given, field)
        return {name: getattr(made, name) for name in given}

    return Value(read, lambda: schema_of(cls))


def _at(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _entry(field: str, number: int, record: Any) -> str:
    name = record.get("name") if isinstance(record, Mapping) else None
    return f"{field}[{name if isinstance(name, str) and len(name) <= _NAME else number}]"


def schema_of(cls: type) -> dict[str, Any]:
    """JSON schema of a dataclass: its fields and no others, described by its docstring."""
    words, properties, required = attributes(cls), {}, []
    for f in fields(cls):
        default = default_of(f)
        properties[f.name] = values_of(cls)[f.name].schema() | {"description": words[f.name]}
        if default is MISSING:
            required.append(f.name)
        elif default not in ([], {}):
            properties[f.name]["default"] = default
    out = {"type": "object", "description": summary(cls), "properties": properties, "additionalProperties": False}
    return out | ({"required": required} if required else {})


def summary(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


@lru_cache
def attributes(cls: type) -> Mapping[str, str]:
    """Field -> what the Attributes of a dataclass's docstring say about it, on one line each.

    An entry is `name: text`, continued on deeper lines; a line may hold several, divided by semicolons.

    Raises:
        ValueError: a field is not described: it would be missing in the documentation.
    """
    names = [f.name for f in fields(cls)]
    blocks = ((each.__doc__ or "").partition("Attributes:\n")[2].split("\n\n")[0] for each in reversed(cls.__mro__))
    text = " ".join(" ".join(blocks).split())
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
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return as_json(value)


def as_json(value: Any) -> Any:
    """Mappings and tuples as dictionaries and lists."""
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, (list, tuple)) else value
