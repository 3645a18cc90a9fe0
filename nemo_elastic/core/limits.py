# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a budget can limit: a record for each kind of limit, and one limit of one budget.

A kind is a field of `Budget` and, with dashes, an option of `slice` and `specialize`. What it counts adds up over
layers at a given residual width, and never rises from a shape to one nested in it: tables price it, bisection finds
the largest shape within it, and the smallest member meets every limit that any member meets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from nemo_elastic.core.cost import MemorySpec, active_parameters, memory, parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.latency import DECODE, PHASES, REQUEST, LatencyTable
from nemo_elastic.errors import bad
from nemo_elastic.io.fields import Between, OneOf, Value, kept, value_of
from nemo_elastic.io.values import UNITS, human_bytes, parse_count, parse_float, parse_size, three_digits

__all__ = ["LATENCY", "LIMITS", "RATIO", "Limit", "LimitKind", "figure"]


@dataclass(frozen=True)
class LimitKind:
    """A kind of limit.

    Attributes:
        field: of a budget.
        given: what a block has in the field.
        parse: the value that the text of an option means, of the option, the text and what a deployment holds.
        cost: what is counted of a `Subnet`, of the parent, the member and the value.
        most: how much of that the value allows, of the value and the parent's cost.
        moved: the value that allows another amount, of the value and the amount; a share of the parent stays.
        words: says an amount.
        asked: says the value, of the value and the words of what it allows.
    """

    field: str
    given: Value
    parse: Callable[[str, str, MemorySpec], Any]
    cost: Callable[[Parent, Any, Any], Any]
    most: Callable[[Any, float], float]
    moved: Callable[[Any, float], Any]
    words: Callable[[float], str]
    asked: Callable[[Any, str], str] = lambda value, words: words

    @property
    def option(self) -> str:
        """Of a command."""
        return "--" + self.field.replace("_", "-")

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_field, (self.field,)  # another process has its own functions


@dataclass(frozen=True)
class Limit:
    """One limit: `cost` of a member is at most `most`, and `target` where that must not be above the parent.

    Attributes:
        kind: what is limited.
        value: as a budget has it.
        name: of the value, for errors.
    """

    kind: LimitKind
    value: Any
    name: str

    def cost(self, parent: Parent, member: Any) -> Any:
        """What is limited, of a `Subnet`."""
        return self.kind.cost(parent, member, self.value)

    def most(self, parent: Parent) -> float:
        """The most that `cost` may be."""
        return self.kind.most(self.value, self.cost(parent, parent.full))

    def target(self, parent: Parent) -> float:
        """The same; raises `ElasticError` where it is above the parent's."""
        most, whole = self.most(parent), self.cost(parent, parent.full)
        if most > whole:
            raise bad(self.name, most, f"at most the parent's {figure(whole)}")
        return most

    def share_of(self, parent: Parent) -> float:
        """The target as a share of the parent's cost."""
        return self.target(parent) / self.cost(parent, parent.full)

    def share(self, parent: Parent, member: Any) -> Any:
        """How much of the limit a member uses: 1 is all of it."""
        return self.cost(parent, member) / self.most(parent)


def figure(amount: float) -> str:
    """An amount without its unit: whole where it is large."""
    return f"{amount:.0f}" if amount >= 1000 else f"{amount:.4g}"


_COUNTED = "^[0-9.]+([eE][+]?[0-9]+)?[KMBTkmbt]?$"
_COUNT = Value(
    lambda value, name: parse_count(name, value),
    lambda: {"anyOf": [{"type": "number", "minimum": 1}, {"type": "string", "pattern": _COUNTED}]},
)
_SIZED = f"^[0-9.]+({'|'.join(sorted(UNITS, key=len, reverse=True))})$"
_SIZE = Value(
    lambda value, name: parse_size(name, value) and value,
    lambda: {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZED}]},
)
_TABLE = Value(lambda value, name: LatencyTable.read(name, value), lambda: {"type": ["string", "object"]})


def _count(field: str, cost: Callable[[Parent, Any], Any], unit: str) -> LimitKind:
    """A number of parameters."""
    return LimitKind(
        field,
        _COUNT,
        lambda option, text, _: parse_count(option, text),
        lambda parent, member, _: cost(parent, member),
        lambda value, _: float(value),
        lambda _, most: float(round(most)),
        lambda amount: f"{amount:,.0f} {unit}",
    )


@dataclass(frozen=True, kw_only=True)
class MemoryLimit(MemorySpec):
    """Bytes in service: weights + KV cache + SSM and convolution state.

    Attributes:
        size: the limit, in bytes or as text such as 18GiB.
    """

    size: Annotated[int | str, _SIZE]


@dataclass(frozen=True)
class LatencyLimit:
    """Milliseconds, or a share of the parent's, on the machine of a table.

    Attributes:
        table: file of `nemo-elastic profile`, or its content.
        ms: milliseconds.
        ratio: share of the parent's milliseconds.
        of: what takes them.
    """

    table: Annotated[str | Mapping[str, Any], _TABLE]
    ms: Annotated[float, Between(1e-9, 1e12, "milliseconds, above 0")] | None = None
    ratio: Annotated[float, Between(1e-6, 1, "a share of the parent's milliseconds in (0, 1]")] | None = None
    of: Annotated[str, OneOf((*PHASES, REQUEST))] = DECODE


def check_content(budgets: Any, where: str) -> None:
    """Raise for budgets of a file from elsewhere where a table is a path: no file is opened that they name."""
    for budget in budgets if isinstance(budgets, (list, tuple)) else ():
        limit = budget.get("latency") if isinstance(budget, Mapping) else None
        if isinstance(limit, Mapping) and isinstance(limit.get("table"), str):
            raise bad(f"{where}.latency.table", limit["table"], "the content of a table, as families keep it")


_LATENCY = kept(LatencyLimit)
_ASKED = re.compile(rf"(.+):([-+.\de]+)(ms|s)?(?::({'|'.join((*PHASES, REQUEST))}))?")


def _latency_read(value: Any, name: str) -> dict[str, Any]:
    read = _LATENCY.read(value, name)
    if ("ms" in read) == ("ratio" in read):
        raise bad(name, read, "{table: FILE, ms: 12} or {table: FILE, ratio: 0.6}: one of ms and ratio")
    return read


def _latency_schema() -> dict[str, Any]:
    return _LATENCY.schema() | {"oneOf": [{"required": ["ms"]}, {"required": ["ratio"]}]}


def _latency_parse(option: str, text: str) -> dict[str, Any]:
    """TABLE:12ms, TABLE:0.6 or either with :prefill or another phase behind it."""
    split = _ASKED.fullmatch(text)
    amount = parse_float(split[2]) if split else text
    if split is None or isinstance(amount, str):
        raise bad(option, text, "a table and a limit of time: h100.json:12ms, h100.json:0.6 or h100.json:2s:request")
    table, _, unit, of = split.groups()
    asked = {"ms": amount * (1e3 if unit == "s" else 1)} if unit else {"ratio": amount}
    return {"table": table, **asked} | ({"of": of} if of else {})


PARAMS = _count("params", parameters, "parameters")
ACTIVE = _count("active_params", active_parameters, "active parameters")
_RATIO = value_of(Annotated[float, Between(1e-6, 1, "a share of the parent's parameters in (0, 1]")])
RATIO = LimitKind(
    "ratio",
    _RATIO,
    lambda option, text, _: _RATIO.read(parse_float(text), option),
    lambda parent, member, _: parameters(parent, member),
    lambda value, whole: value * whole,
    lambda value, _: value,
    PARAMS.words,
    lambda value, words: f"{value:g} of the parent ({words})",
)
MEMORY = LimitKind(
    "memory",
    kept(MemoryLimit),
    lambda option, text, spec: {"size": f"{parse_size(option, text)}B", **asdict(spec)},
    lambda parent, member, value: memory(parent, member, MemoryLimit(**value)),
    lambda value, _: parse_size("memory.size", value["size"]),
    lambda value, most: {**value, "size": round(most)},
    human_bytes,
)
LATENCY = LimitKind(
    "latency",
    Value(_latency_read, _latency_schema),
    lambda option, text, _: _latency_read(_latency_parse(option, text), option),
    lambda parent, member, value: value["table"].milliseconds(parent, member, value.get("of", DECODE)),
    lambda value, whole: value["ms"] if "ms" in value else value["ratio"] * whole,
    lambda value, most: value if "ratio" in value else {**value, "ms": most},
    lambda amount: f"{three_digits(amount)} ms",
    lambda value, words: f"{words} ({value.get('of', DECODE)})",
)
#: fields of a budget, in the order of files
LIMITS = {kind.field: kind for kind in (PARAMS, ACTIVE, RATIO, MEMORY, LATENCY)}


def _of_field(field: str) -> LimitKind:
    return LIMITS[field]
