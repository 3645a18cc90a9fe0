# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The limits that a budget can set on a member: one class for each.

A limit is a field of `Budget` and, with dashes, an option of `slice` and `specialize`. Its cost is a sum over layers
at a given residual width and never rises from a shape to one nested in it. So the search prices members from tables,
bisection finds the largest shape within a limit, and the smallest member meets every limit that any member meets.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from nemo_elastic.core.cost import MemorySpec, active_parameters, memory, parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.latency import DECODE, PHASES, REQUEST, LatencyTable
from nemo_elastic.errors import bad
from nemo_elastic.io.fields import Between, OneOf, Value, kept, value_of
from nemo_elastic.io.values import THOUSANDS, UNITS, human_bytes, parse_count, parse_float, parse_size, three_digits

__all__ = [
    "LIMITS", "ActiveParametersLimit", "LatencyField", "LatencyLimit", "Limit", "MemoryField", "MemoryLimit",
    "ParametersLimit", "RatioLimit", "figure",
]  # fmt: skip

_COUNT_PATTERN = f"^({THOUSANDS}|[0-9.]+([eE][+]?[0-9]+)?[KMBTkmbt]?)$"
_COUNT = Value(
    lambda value, name: parse_count(name, value),
    lambda: {"anyOf": [{"type": "number", "minimum": 1}, {"type": "string", "pattern": _COUNT_PATTERN}]},
)
_SIZE_PATTERN = f"^[0-9.]+({'|'.join(sorted(UNITS, key=len, reverse=True))})$"
_SIZE = Value(
    lambda value, name: parse_size(name, value) and value,
    lambda: {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZE_PATTERN}]},
)
_TABLE = Value(lambda value, name: LatencyTable.read(name, value), lambda: {"type": ["string", "object"]})
_RATIO = value_of(Annotated[float, Between(1e-6, 1, "a share of the parent's parameters in (0, 1]")])


@dataclass(frozen=True)
class Limit(ABC):
    """One limit of one budget: the cost of a member is at most `most`.

    Attributes:
        value: as the budget has it.
        name: of the budget's field or the option, for errors.
        field: of `Budget`.
        given: type of the field in an `elastic:` block.
    """

    value: Any
    name: str
    field: ClassVar[str]
    given: ClassVar[Value]

    @classmethod
    def option(cls) -> str:
        """Option of `slice` and `specialize`."""
        return "--" + cls.field.replace("_", "-")

    @classmethod
    @abstractmethod
    def parse(cls, option: str, text: str, spec: MemorySpec) -> Any:
        """The value of an option's text; `spec`: batch, length and dtypes of the deployment."""

    @abstractmethod
    def cost(self, parent: Parent, member: Any) -> Any:
        """The limited amount of a `Subnet`."""

    @abstractmethod
    def most(self, parent: Parent) -> float:
        """Upper limit of `cost`."""

    @abstractmethod
    def moved(self, most: float) -> Any:
        """The value that allows `most` instead; a share of the parent stays as it is."""

    @staticmethod
    @abstractmethod
    def words(amount: float) -> str:
        """An amount with its unit."""

    def request(self, parent: Parent) -> str:
        """The limit in words, for messages."""
        return self.words(self.most(parent))

    def target(self, parent: Parent) -> float:
        """`most`; raises `ElasticError` where it is above the parent's cost."""
        most, whole = self.most(parent), self.cost(parent, parent.full)
        if most > whole:
            raise bad(self.name, most, f"at most the parent's {figure(whole)}")
        return most

    def share_of(self, parent: Parent) -> float:
        """The target as a share of the parent's cost."""
        return self.target(parent) / self.cost(parent, parent.full)

    def share(self, parent: Parent, member: Any) -> Any:
        """Used share of the limit: 1 is all of it."""
        return self.cost(parent, member) / self.most(parent)


def figure(amount: float) -> str:
    """An amount without its unit: whole where it is large."""
    return f"{amount:.0f}" if amount >= 1000 else f"{amount:.4g}"


class ParametersLimit(Limit):
    """Number of parameters."""

    field, given = "params", _COUNT

    @classmethod
    def parse(cls, option: str, text: str, spec: MemorySpec) -> float:
        return parse_count(option, text)

    def cost(self, parent: Parent, member: Any) -> Any:
        return parameters(parent, member)

    def most(self, parent: Parent) -> float:
        return float(self.value)

    def moved(self, most: float) -> float:
        return float(round(most))

    @staticmethod
    def words(amount: float) -> str:
        return f"{amount:,.0f} parameters"


class ActiveParametersLimit(ParametersLimit):
    """Number of parameters that a token passes through."""

    field = "active_params"

    def cost(self, parent: Parent, member: Any) -> Any:
        return active_parameters(parent, member)

    @staticmethod
    def words(amount: float) -> str:
        return f"{amount:,.0f} active parameters"


class RatioLimit(ParametersLimit):
    """Share of the parent's parameters."""

    field, given = "ratio", _RATIO

    @classmethod
    def parse(cls, option: str, text: str, spec: MemorySpec) -> float:
        return _RATIO.read(parse_float(text), option)

    def most(self, parent: Parent) -> float:
        return self.value * parameters(parent, parent.full)

    def moved(self, most: float) -> float:
        return self.value

    def request(self, parent: Parent) -> str:
        return f"{self.value:g} of the parent ({super().request(parent)})"


@dataclass(frozen=True, kw_only=True)
class MemoryField(MemorySpec):
    """Bytes in service: weights + KV cache + SSM and convolution state.

    Attributes:
        size: the limit, in bytes or as text such as 18GiB.
    """

    size: Annotated[int | str, _SIZE]


class MemoryLimit(Limit):
    """Bytes in service."""

    field, given = "memory", kept(MemoryField)

    @classmethod
    def parse(cls, option: str, text: str, spec: MemorySpec) -> dict[str, Any]:
        return {"size": f"{parse_size(option, text)}B", **asdict(spec)}

    def cost(self, parent: Parent, member: Any) -> Any:
        return memory(parent, member, MemoryField(**self.value))

    def most(self, parent: Parent) -> float:
        return parse_size("memory.size", self.value["size"])

    def moved(self, most: float) -> dict[str, Any]:
        return {**self.value, "size": round(most)}

    @staticmethod
    def words(amount: float) -> str:
        return human_bytes(amount)


@dataclass(frozen=True)
class LatencyField:
    """Milliseconds, or a share of the parent's, on the machine of a table.

    Attributes:
        table: file of `nemo-elastic profile`, or its content.
        ms: milliseconds.
        ratio: share of the parent's milliseconds.
        of: phase that is measured: decode (each further token), prefill (up to the first token) or request.
    """

    table: Annotated[str | Mapping[str, Any], _TABLE]
    ms: Annotated[float, Between(1e-9, 1e12, "milliseconds, above 0")] | None = None
    ratio: Annotated[float, Between(1e-6, 1, "a share of the parent's milliseconds in (0, 1]")] | None = None
    of: Annotated[str, OneOf((*PHASES, REQUEST))] = DECODE


_LATENCY = kept(LatencyField)
_LATENCY_TEXT = re.compile(rf"(.+):([-+.\de]+)(ms|s)?(?::({'|'.join((*PHASES, REQUEST))}))?")


def _read_latency(value: Any, name: str) -> dict[str, Any]:
    read = _LATENCY.read(value, name)
    if ("ms" in read) == ("ratio" in read):
        raise bad(name, read, "{table: FILE, ms: 12} or {table: FILE, ratio: 0.6}: one of ms and ratio")
    return read


def _latency_schema() -> dict[str, Any]:
    return _LATENCY.schema() | {"oneOf": [{"required": ["ms"]}, {"required": ["ratio"]}]}


class LatencyLimit(Limit):
    """Milliseconds of a phase on the machine of a table."""

    field, given = "latency", Value(_read_latency, _latency_schema)

    @property
    def _phase(self) -> str:
        return self.value.get("of", DECODE)

    @classmethod
    def parse(cls, option: str, text: str, spec: MemorySpec) -> dict[str, Any]:
        """TABLE:12ms or TABLE:0.6, and optionally :prefill or another phase."""
        split = _LATENCY_TEXT.fullmatch(text)
        amount = parse_float(split[2]) if split else text
        if split is None or isinstance(amount, str):
            allowed = "a table and a limit of time: h100.json:12ms, h100.json:0.6 or h100.json:2s:request"
            raise bad(option, text, allowed)
        table, _, unit, phase = split.groups()
        value = {"ms": amount * (1e3 if unit == "s" else 1)} if unit else {"ratio": amount}
        return _read_latency({"table": table, **value} | ({"of": phase} if phase else {}), option)

    def cost(self, parent: Parent, member: Any) -> Any:
        return self.value["table"].milliseconds(parent, member, self._phase)

    def most(self, parent: Parent) -> float:
        return self.value["ms"] if "ms" in self.value else self.value["ratio"] * self.cost(parent, parent.full)

    def moved(self, most: float) -> dict[str, Any]:
        return self.value if "ratio" in self.value else {**self.value, "ms": most}

    @staticmethod
    def words(amount: float) -> str:
        return f"{three_digits(amount)} ms"

    def request(self, parent: Parent) -> str:
        return f"{super().request(parent)} ({self._phase})"


#: field of a budget -> its limit, in the order of files
LIMITS: dict[str, type[Limit]] = {
    limit.field: limit for limit in (ParametersLimit, ActiveParametersLimit, RatioLimit, MemoryLimit, LatencyLimit)
}


def check_content(budgets: Any, where: str) -> None:
    """Raise where a budget of an untrusted file names a latency table by path: only contents of tables are allowed."""
    for budget in budgets if isinstance(budgets, (list, tuple)) else ():
        limit = budget.get("latency") if isinstance(budget, Mapping) else None
        if isinstance(limit, Mapping) and isinstance(limit.get("table"), str):
            raise bad(f"{where}.latency.table", limit["table"], "the content of a table, as families keep it")
